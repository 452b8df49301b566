package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/serve"
	"github.com/higress-group/plugin-server-operator/internal/supervise"
)

// ballast is memory in bytes that is never used, and so never taken from the
// machine. But it counts where the collector decides when to run: after so much
// garbage instead of after each four megabytes, for next to nothing is needed otherwise.
const ballast = 32 << 20

// serveVolume serves a volume until it is told to end. What stands after "--"
// is run beside it, as a child of this very program.
func serveVolume(ctx context.Context, args []string, logger *slog.Logger) error {
	options := serve.Options{Logger: logger}
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	f.StringVar(&options.DataDir, "data-dir", "/data", "the volume")
	listen := f.String("listen", ":8080", "address of the plugins")
	ops := f.String("ops-listen", ":8081", "address of health, state and metrics")
	f.DurationVar(&options.Hold, "hold", serve.Hold, "how long a request waits for a plugin that is not there yet")
	f.DurationVar(&options.DrainDelay, "drain-delay", 5*time.Second, "how long connections are accepted after the end was announced")
	f.DurationVar(&options.Grace, "grace", 45*time.Second, "how long answers that have begun may take after that")
	if err := f.Parse(args); err != nil {
		return err
	}
	defer runtime.KeepAlive(make([]byte, ballast))
	var beside sync.WaitGroup
	defer beside.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if child := f.Args(); len(child) > 0 {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program, to run %s beside it: %w", child[0], err)
		}
		run := supervise.Child{Logger: logger, Command: func(ctx context.Context) *exec.Cmd {
			cmd := exec.CommandContext(ctx, self, child...)
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			return cmd
		}}
		beside.Go(func() { run.Run(ctx) })
	}
	return listenAndServe(ctx, serve.New(options), *listen, *ops)
}

func listenAndServe(ctx context.Context, server *serve.Server, plugins, ops string) error {
	// A client that is gone is noticed by the time that it has for each piece of a
	// module, and for its next request: the kernel need not ask for it, which takes four
	// calls to set up.
	config := net.ListenConfig{KeepAlive: -1}
	listener, err := config.Listen(ctx, "tcp", plugins)
	if err != nil {
		return err
	}
	opsListener, err := config.Listen(ctx, "tcp", ops)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	return server.Run(ctx, listener, opsListener)
}
