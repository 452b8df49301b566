//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Units are what can be stopped and started again by itself. All that a node has
// on its disk stays: images, the pods' empty directories, volumes of its folders.
const (
	controlPlane = "control-plane"
	registryUnit = "registry"
)

// units are all of the cluster's.
func (c *cluster) units() []string {
	all := []string{controlPlane, registryUnit}
	for _, n := range c.nodes() {
		all = append(all, n.Name)
	}
	return all
}

// unit is what a process belongs to.
func (p process) unit() string {
	_, node, onNode := strings.Cut(p.Name, "@")
	switch {
	case onNode:
		return node
	case p.Name == registryUnit:
		return registryUnit
	}
	return controlPlane
}

// running are the units that were started and not stopped.
func (c *cluster) running() []string {
	var all []string
	for _, p := range c.recorded() {
		if unit := p.unit(); !slices.Contains(all, unit) {
			all = append(all, unit)
		}
	}
	return all
}

func verbStop(c *cluster, args []string) error { return c.power("stop", args, c.stop) }

func verbStart(c *cluster, args []string) error {
	return c.power("start", args, func(units []string) error {
		running := c.running()
		units = slices.DeleteFunc(units, func(unit string) bool { return slices.Contains(running, unit) })
		for _, n := range c.nodes() {
			if slices.Contains(units, n.Name) {
				if err := connect(n, c.nodes()); err != nil {
					return err
				}
			}
		}
		return c.inside(context.Background(), "__start", units...)
	})
}

func verbStartInside(c *cluster, units []string) error {
	s, err := c.newStarter()
	if err != nil {
		return err
	}
	return s.start(units)
}

// power does something to the named units, or to all.
func (c *cluster) power(verb string, units []string, do func(units []string) error) error {
	if currentContext() {
		return fmt.Errorf("%s: not with USE_CURRENT_CONTEXT=true", verb)
	}
	if err := needRoot(verb); err != nil {
		return err
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if !exists(c.path("exec")) {
		return fmt.Errorf("%s: the cluster %s is not up", verb, c.Name)
	}
	for _, unit := range units {
		if !slices.Contains(c.units(), unit) {
			return fmt.Errorf("%s: there is no %s, but %s", verb, unit, strings.Join(c.units(), ", "))
		}
	}
	if len(units) == 0 {
		units = c.units()
	}
	return do(units)
}

// stop does to units what a loss of power does: nobody is told, and of a node
// nothing is left but what is on its disk. The first node's network stays, since
// whoever looks is in it.
func (c *cluster) stop(units []string) error {
	for _, n := range c.nodes()[1:] {
		if slices.Contains(units, n.Name) {
			if err := disconnect(n); err != nil {
				return err
			}
		}
	}
	if err := c.killUnits(units); err != nil {
		return err
	}
	for _, n := range c.nodes() {
		if !slices.Contains(units, n.Name) {
			continue
		}
		c.removeSockets(n)
		if err := unmountBelow(c.path(n.Name)); err != nil {
			return err
		}
		// On a machine of its own these are in memory.
		for _, folder := range []string{"state", "runc"} {
			if err := os.RemoveAll(c.path(n.Name, "containerd", folder)); err != nil {
				return err
			}
		}
		if err := removeCgroup(c.cgroup(n)); err != nil {
			return err
		}
	}
	return c.forget(units)
}

// forget takes the processes of units off the list.
func (c *cluster) forget(units []string) error {
	var kept strings.Builder
	for _, p := range c.recorded() {
		if !slices.Contains(units, p.unit()) {
			kept.WriteString(p.line())
		}
	}
	if err := c.write(kept.String(), "processes.new"); err != nil {
		return err
	}
	return os.Rename(c.path("processes.new"), c.path("processes"))
}
