package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"k8s.io/klog/v2"
)

// up starts a cluster and does what stdin says, until that is closed or something of the cluster ends by itself. However up ends, by a
// signal too, the kernel ends the cluster with it.
func up(arguments []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	directory := flags.String("dir", "", "where everything of the cluster is kept: a directory that is empty, or is made")
	count := flags.Int("nodes", 2, "how many nodes there are")
	play := flags.Bool("play-kubelet", true, "let pods run and volumes be found, as nodes and their storage would")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	// Processes are started from here only, and end with this thread.
	runtime.LockOSThread()
	if err := enter(*directory); err != nil {
		return err
	}
	c, err := newCluster()
	if err != nil {
		return err
	}
	defer c.end()
	nodes := newNodes(*count)
	if err := c.startAll(nodes); err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := logToFile(); err != nil {
		return err
	}
	go keepReady(ctx, c.client, nodes)
	if *play {
		go playKubelet(ctx, c.client, nodes)
		go playStorage(ctx, c.client)
	}
	if err := c.announce(); err != nil {
		return err
	}
	return c.obey(orders())
}

// enter makes the directory the working directory, and refuses one in which there is something.
func enter(directory string) error {
	if directory == "" {
		return errors.New("say where to keep the cluster: --dir DIR")
	}
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	present, err := os.ReadDir(directory)
	if err != nil {
		return err
	}
	if len(present) > 0 {
		return fmt.Errorf("%s is not empty; a cluster that has ended is not started again: name another directory", directory)
	}
	return os.Chdir(directory)
}

// logToFile keeps stderr, which is the test's, for errors: client libraries report there whatever they have to try again.
func logToFile() error {
	log, err := os.Create("kubelet.log")
	if err != nil {
		return err
	}
	klog.SetSlogLogger(slog.New(slog.NewTextHandler(log, nil)))
	return nil
}

// announce says where the cluster is, once it is ready.
func (c *cluster) announce() error {
	directory, err := os.Getwd()
	if err != nil {
		return err
	}
	return answer(struct {
		Ready      bool   `json:"ready"`
		Kubeconfig string `json:"kubeconfig"`
		Server     string `json:"server"`
		Authority  string `json:"ca"`
	}{true, filepath.Join(directory, adminFile), c.server, filepath.Join(directory, authorityFile)})
}

// orders are the lines of stdin; closed when that is.
func orders() <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	return lines
}

// obey returns when there is nothing more to do; an error is that something ended which nobody stopped.
func (c *cluster) obey(orders <-chan string) error {
	for {
		select {
		case process := <-c.died:
			if !process.running() && !process.stopped {
				return fmt.Errorf("%s has ended by itself; %s", process.name, process.lastWords())
			}
		case order, open := <-orders:
			if !open || order == "quit" {
				return nil
			}
			if err := c.carryOut(order); err != nil {
				return err
			}
		}
	}
}

// carryOut does what one line says, and answers by one line. Its error is that nobody can be answered.
func (c *cluster) carryOut(order string) error {
	type answered struct {
		Done  string `json:"done,omitempty"`
		Error string `json:"error,omitempty"`
	}
	verb, name, _ := strings.Cut(strings.TrimSpace(order), " ")
	var err error
	switch verb {
	case "stop":
		err = c.stop(name)
	case "start":
		err = c.start(name)
	default:
		err = fmt.Errorf("unknown order %q: say `stop COMPONENT`, `start COMPONENT` or `quit`", order)
	}
	if err != nil {
		return answer(answered{Error: err.Error()})
	}
	return answer(answered{Done: order})
}

func answer(value any) error {
	return json.NewEncoder(os.Stdout).Encode(value)
}
