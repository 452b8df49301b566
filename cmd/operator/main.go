// Command operator reconciles PluginSources and PluginServers.
//
//	operator [flags]            runs the operator
//	operator release [flags]    lets go of everything outside, before the operator is removed
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificates of its own
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "operator:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	releasing := len(args) > 0 && args[0] == "release"
	if releasing {
		args = args[1:]
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: o.logLevel}))
	slog.SetDefault(logger)
	ctrl.SetLogger(logr.FromSlogHandler(logger.Handler()))
	if releasing {
		return release(ctx, o)
	}
	return operate(ctx, o)
}
