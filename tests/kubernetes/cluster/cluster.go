package main

import (
	"fmt"
	"net/http"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// cluster is all processes of one Kubernetes. Its files are in the working directory.
type cluster struct {
	server    string
	processes map[string]*process
	// Where each component says that it is ready; etcd has a socket instead.
	readiness map[string]string
	// What has ended, by order or not, since it was last started.
	died   chan *process
	http   *http.Client
	client kubernetes.Interface
}

// newCluster has everything in place for its processes to be started.
func newCluster() (*cluster, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	url := func(port int) string { return fmt.Sprintf("https://%s:%d", loopback, port) }
	c := &cluster{
		server: url(ports[0]),
		processes: map[string]*process{
			etcdName:       {name: etcdName, arguments: etcdArguments()},
			apiServerName:  {name: apiServerName, arguments: apiServerArguments(ports[0])},
			controllerName: {name: controllerName, arguments: controllerArguments(ports[1])},
			schedulerName:  {name: schedulerName, arguments: schedulerArguments(ports[2])},
		},
		readiness: map[string]string{
			apiServerName:  url(ports[0]) + "/readyz",
			controllerName: url(ports[1]) + "/healthz",
			schedulerName:  url(ports[2]) + "/readyz",
		},
		died: make(chan *process),
	}
	if err := writeFiles(c.server); err != nil {
		return nil, err
	}
	return c, c.connect()
}

func (c *cluster) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", adminFile)
	if err != nil {
		return err
	}
	// No limit: the server has its own.
	config.QPS = -1
	if c.http, err = rest.HTTPClientFor(config); err != nil {
		return err
	}
	c.client, err = kubernetes.NewForConfigAndClient(config, c.http)
	return err
}

// startAll returns when pods can be made and are scheduled.
func (c *cluster) startAll(nodes []*core.Node) error {
	// kube-apiserver waits for etcd by itself; the others give up on kube-apiserver too early.
	if err := c.begin(etcdName, apiServerName); err != nil {
		return err
	}
	if err := c.waitReady(apiServerName); err != nil {
		return err
	}
	if err := c.begin(controllerName, schedulerName); err != nil {
		return err
	}
	for _, node := range nodes {
		if err := createNode(c.client, node); err != nil {
			return err
		}
	}
	for _, name := range []string{controllerName, schedulerName} {
		if err := c.waitReady(name); err != nil {
			return err
		}
	}
	controllers := c.processes[controllerName]
	if err := c.wait(controllers, "the service account default/default", c.hasDefaultServiceAccount); err != nil {
		return err
	}
	return c.wait(controllers, "nodes that pods may be on", c.hasNodes)
}

func (c *cluster) begin(names ...string) error {
	for _, name := range names {
		if err := c.processes[name].start(c.died); err != nil {
			return err
		}
	}
	return nil
}

// stop kills the component.
func (c *cluster) stop(name string) error {
	process, err := c.process(name)
	if err != nil {
		return err
	}
	process.kill()
	return nil
}

// start begins the component again, where it was, and returns when it serves.
func (c *cluster) start(name string) error {
	process, err := c.process(name)
	if err != nil {
		return err
	}
	if process.running() {
		return fmt.Errorf("%s is running; stop it first", name)
	}
	if err := process.start(c.died); err != nil {
		return err
	}
	if err := c.waitReady(name); err != nil {
		process.kill()
		return err
	}
	// Without the other one, neither can say that it works.
	if name == etcdName && c.processes[apiServerName].running() {
		return c.waitReady(apiServerName)
	}
	return nil
}

// end kills everything.
func (c *cluster) end() {
	for _, process := range c.processes {
		process.kill()
	}
}

func (c *cluster) process(name string) (*process, error) {
	if process, known := c.processes[name]; known {
		return process, nil
	}
	return nil, fmt.Errorf("there is no component %q: there are %s", name,
		strings.Join(names, ", "))
}
