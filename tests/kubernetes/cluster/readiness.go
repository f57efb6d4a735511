package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// Until a component serves. It takes a few seconds; a machine that builds something at the same time takes ten times as long.
	startTimeout = 120 * time.Second
	// Until what was asked is asked again.
	askInterval = 50 * time.Millisecond
	// Longer than any answer takes that is not an error.
	answerTimeout = 5 * time.Second
)

func (c *cluster) waitReady(name string) error {
	return c.wait(c.processes[name], name+" to be ready", func(ctx context.Context) error {
		if url, serves := c.readiness[name]; serves {
			return c.ask(ctx, url)
		}
		return dialEtcd(ctx)
	})
}

// wait returns when the check succeeds, and tells the process's last words if it does not in time, or of the one that has ended.
func (c *cluster) wait(process *process, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ended := c.ended(); ended != nil {
			return fmt.Errorf("waiting for %s, but %s has ended; %s", what, ended.name, ended.lastWords())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s in vain (%w); %s", startTimeout, what, err, process.lastWords())
		case <-time.After(askInterval):
		}
	}
}

// ended is a process that nobody has stopped, if there is one.
func (c *cluster) ended() *process {
	for _, name := range names {
		if process := c.processes[name]; process.command != nil && !process.stopped && !process.running() {
			return process
		}
	}
	return nil
}

func (c *cluster) ask(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s says %s", url, response.Status)
	}
	return nil
}

func dialEtcd(ctx context.Context) error {
	connection, err := new(net.Dialer).DialContext(ctx, "unix", etcdSocket)
	if err != nil {
		return err
	}
	return connection.Close()
}

func (c *cluster) hasDefaultServiceAccount(ctx context.Context) error {
	_, err := c.client.CoreV1().ServiceAccounts("default").Get(ctx, "default", meta.GetOptions{})
	return err
}

// hasNodes fails as long as a node that has just been made is tainted for not being ready.
func (c *cluster) hasNodes(ctx context.Context) error {
	nodes, err := c.client.CoreV1().Nodes().List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	for _, node := range nodes.Items {
		if len(node.Spec.Taints) > 0 {
			return fmt.Errorf("%s is tainted by %s", node.Name, node.Spec.Taints[0].Key)
		}
	}
	return nil
}
