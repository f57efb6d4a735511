// Conduit-test-cluster is all of Kubernetes but its nodes, in one binary, on loopback: the same etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler and kubectl that clusters run, from the modules that they are released as.
//
// Every component is a process of its own, and this program under the component's name: `up` starts them as its children, so that
// tests can kill one and start it again. What nodes do is played, by kubelet.go.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

const usage = `usage: conduit-test-cluster COMMAND

  up --dir DIR          starts a cluster, says where it is, and takes orders on stdin:
                        stop COMPONENT, start COMPONENT, quit
  kubectl ...           is kubectl; so is this program by the name of kubectl
  etcd, kube-apiserver, kube-controller-manager, kube-scheduler
                        are what up starts
`

func main() {
	name, arguments := called(os.Args)
	run, known := components[name]
	if name == "up" {
		run, known = up, true
	}
	if !known {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := run(arguments); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// called says which command this is, and its arguments: under the name of kubectl, the program is kubectl.
func called(arguments []string) (string, []string) {
	if name := filepath.Base(arguments[0]); name == "kubectl" {
		return name, arguments[1:]
	}
	if len(arguments) < 2 {
		return "", nil
	}
	return arguments[1], arguments[2:]
}
