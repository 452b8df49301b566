// Command printenv prints its environment, one NAME=VALUE a line, and then
// waits until it is told to stop. The stand-ins for the Higress Console and
// controller in the quick start and the tests run it.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

func main() {
	environment := os.Environ()
	slices.Sort(environment)
	for _, line := range environment {
		fmt.Println(line)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
