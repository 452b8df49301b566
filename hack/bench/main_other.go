//go:build !linux

// Command bench measures the plugin server beside its peers; it needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: this command needs Linux (cgroups, network namespaces, pinned processors)")
	os.Exit(1)
}
