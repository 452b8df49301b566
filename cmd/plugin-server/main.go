// Command plugin-server serves Higress's Wasm plugins over HTTP.
//
//	plugin-server serve [flags] [-- sync [flags]]    serves a volume; what follows "--" runs beside it
//	plugin-server sync [flags]                       brings the volume to the operator's catalog
//	plugin-server local [flags] FILE...|FOLDER       serves PluginSource files or a folder, without Kubernetes
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificates of its own
)

// version is set by the build.
var version = "dev"

var verbs = map[string]func(ctx context.Context, args []string, logger *slog.Logger) error{
	"serve": serveVolume,
	"sync":  syncVolume,
	"local": serveLocal,
	"version": func(context.Context, []string, *slog.Logger) error {
		_, err := fmt.Println(version)
		return err
	},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	verb, known := verbs[append(os.Args, "")[1]]
	if !known {
		fmt.Fprintln(os.Stderr, "usage: plugin-server serve | sync | local | version [flags]; --help after a verb lists its flags")
		os.Exit(2)
	}
	err := verb(ctx, os.Args[2:], logger)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "plugin-server:", err)
		os.Exit(1)
	}
}
