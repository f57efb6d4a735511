package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// How much of a log is told with an error: enough for a panic's first lines and the flag that it is about.
const logTailBytes = 2000

// process is one component of the cluster: this program under another name, with a log in the working directory.
type process struct {
	name      string
	arguments []string
	command   *exec.Cmd
	// Closed once it has ended.
	ended chan struct{}
	// Whether it is meant to have ended.
	stopped bool
}

// start begins the process, and sends it to died when it ends.
//
// The kernel kills it when the thread that started it ends. All calls have to come from a goroutine that is locked to its thread and
// stays until the end.
func (p *process) start(died chan<- *process) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command(program, append([]string{p.name}, p.arguments...)...)
	command.Stdout, command.Stderr = log, log
	// A group of its own, so that ^C ends it by order of its parent and not before.
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := command.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", p.name, err)
	}
	ended := make(chan struct{})
	p.command, p.ended, p.stopped = command, ended, false
	go func() {
		_ = command.Wait()
		close(ended)
		died <- p
	}()
	return nil
}

// kill ends the process as a power failure would, and returns when it is gone.
func (p *process) kill() {
	p.stopped = true
	if p.running() {
		_ = p.command.Process.Kill()
		<-p.ended
	}
}

func (p *process) running() bool {
	if p.command == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

func (p *process) log() string {
	return p.name + ".log"
}

// lastWords is the end of its log, and where the rest is.
func (p *process) lastWords() string {
	path, err := filepath.Abs(p.log())
	if err != nil {
		return err.Error()
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(text) > logTailBytes {
		text = text[len(text)-logTailBytes:]
	}
	return fmt.Sprintf("the end of %s:\n%s", path, strings.TrimSpace(string(text)))
}
