//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// command takes the command of exec and run.
func command(verb string, args []string) ([]string, error) {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return nil, fmt.Errorf("%s: a command is missing: %s -- CMD", verb, verb)
	}
	return args, nil
}

// execCurrent replaces this process by a command with the kubeconfig in use.
func execCurrent(args []string) error {
	program, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	return syscall.Exec(program, args, os.Environ())
}

func verbExec(c *cluster, args []string) error {
	args, err := command("exec", args)
	if err != nil {
		return err
	}
	if currentContext() {
		return execCurrent(args)
	}
	if err := needRoot("exec"); err != nil {
		return err
	}
	script := c.path("exec")
	err = syscall.Exec(script, append([]string{script}, args...), os.Environ())
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("exec: the cluster %s is not up: run \"go run ./hack/cluster up --name %s\" first", c.Name, c.Name)
	}
	return fmt.Errorf("exec: %s: %w", script, err)
}
