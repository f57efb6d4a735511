package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	// The components' metrics of their clients and of their version, as their own main packages have them.
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// The names of the components are those of their programs, of their logs, and those that orders are given by.
const (
	etcdName       = "etcd"
	apiServerName  = "kube-apiserver"
	controllerName = "kube-controller-manager"
	schedulerName  = "kube-scheduler"
)

// names are those of the components that a cluster has running, in the order in which they need each other.
var names = []string{etcdName, apiServerName, controllerName, schedulerName}

// components are what this program can be. Their main functions are made only for the one that it is: they register feature gates and
// metrics that are global to a process.
var components = map[string]func(arguments []string) error{
	etcdName:       etcd,
	apiServerName:  func(arguments []string) error { return execute(apiserver.NewAPIServerCommand(), arguments) },
	controllerName: func(arguments []string) error { return execute(controllers.NewControllerManagerCommand(), arguments) },
	schedulerName:  func(arguments []string) error { return execute(scheduler.NewSchedulerCommand(), arguments) },
	"kubectl":      runKubectl,
}

// execute does not return unless the component has ended well.
func execute(command *cobra.Command, arguments []string) error {
	command.SetArgs(arguments)
	if code := cli.Run(command); code != 0 {
		os.Exit(code)
	}
	return nil
}

// runKubectl does not return after an error: kubectl says it in its own words, and with its own exit codes.
func runKubectl(arguments []string) error {
	// It looks for plugins by these arguments, and not by those of the command.
	os.Args = append([]string{"kubectl"}, arguments...)
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
	return nil
}
