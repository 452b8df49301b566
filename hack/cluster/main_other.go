//go:build !linux

// Command cluster runs a test cluster; it needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "cluster: this command needs Linux (network namespaces, cgroups). Run it in a Linux machine, or use a cluster you have: set USE_CURRENT_CONTEXT=true and call the tests directly.")
	os.Exit(1)
}
