//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A kubelet changes settings of the whole kernel and refuses to start if it
// may not. The first cluster to start therefore writes down what they were,
// and the last one to go puts them back.

var kubeletSettings = []string{
	"vm/overcommit_memory", "vm/panic_on_oom",
	"kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

func (c *cluster) settingsFile() string { return filepath.Join(c.Root, ".kernel-settings") }

// saveSettings is called when the state folder exists, before a kubelet runs.
func (c *cluster) saveSettings() error {
	unlock, err := lockFile(c.settingsFile() + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if exists(c.settingsFile()) {
		return nil
	}
	var content strings.Builder
	for _, name := range kubeletSettings {
		value, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err == nil {
			fmt.Fprintf(&content, "%s %s\n", name, strings.TrimSpace(string(value)))
		}
	}
	return os.WriteFile(c.settingsFile(), []byte(content.String()), 0o600)
}

// restoreSettings is called when the state folder is gone.
func (c *cluster) restoreSettings() error {
	unlock, err := lockFile(c.settingsFile() + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	entries, err := os.ReadDir(c.Root)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			return nil // another cluster
		}
	}
	content, _ := os.ReadFile(c.settingsFile())
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644); err != nil {
			return fmt.Errorf("put back the kernel's setting %s to %s: %w", name, value, err)
		}
	}
	if err := os.Remove(c.settingsFile()); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Remove(c.settingsFile() + ".lock")
}
