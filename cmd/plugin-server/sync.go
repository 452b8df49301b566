package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/follow"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/supervise"
)

// syncMemory is what sync may use, in bytes: with the server beside it, it stays
// below the container's default limit of 256 MiB.
const syncMemory = 160 << 20

// roomPause is the pause before a volume without any room is looked at again.
const roomPause = 10 * time.Second

// openVolume opens the volume as soon as there is room to begin; until then full
// is told why there is none. A process that ended instead would be started again later
// and later. Nil after the end of ctx.
func openVolume(ctx context.Context, full func(error), open func() (*publish.Volume, error)) (*publish.Volume, error) {
	for {
		volume, err := open()
		if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
			return volume, err
		}
		full(err)
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(roomPause):
		}
	}
}

// noRoom says on the volume itself that nothing newer can come: what is declared
// meanwhile is not known there.
func noRoom(dataDir string, err error, logger *slog.Logger) {
	const advice = "the volume has no room to begin; what is on it stays served; free space there, or make it larger"
	logger.Error(advice, "error", err)
	status, err := publish.ReadStatus(dataDir)
	if err == nil {
		status.Error, status.Behind = advice, true
		err = publish.OverwriteStatus(dataDir, status)
	}
	if err != nil {
		logger.Error("that cannot be written down", "error", err)
	}
}

// syncVolume brings a volume to the newest catalog until it is told to end.
func syncVolume(ctx context.Context, args []string, logger *slog.Logger) error {
	options := follow.Options{Logger: logger}
	f := flag.NewFlagSet("sync", flag.ContinueOnError)
	dataDir := f.String("data-dir", "/data", "the volume")
	sizeLimit := f.Int64("size-limit", 0, "what the volume may hold, in bytes; 0 is no limit")
	f.StringVar(&options.CatalogFile, "catalog", "", "the catalog's file, as mounted from its ConfigMap")
	url := f.String("operator-url", "", "where the operator hands out modules and catalogs")
	server := f.String("server", "", "namespace/name of the PluginServer")
	peers := f.String("peers", "", "HOST:PORT that names all pods of the server, which have modules when the operator is away; empty: nobody else is asked")
	f.DurationVar(&options.ReadyTimeout, "ready-timeout", follow.DefaultReadyTimeout, "how long an empty volume waits for all modules")
	f.Int64Var(&options.RereadRate, "reread-rate", follow.DefaultRereadRate, "how much of the volume is read again to find damage, in bytes a second; -1 is nothing")
	memory := f.Int64("memory-limit", syncMemory, "what this process may use, in bytes")
	if err := f.Parse(args); err != nil {
		return err
	}
	operator, err := follow.NewOperator(*url, *server, os.Getenv("POD_NAME"))
	if err != nil {
		return fmt.Errorf("--operator-url and --server: %w", err)
	}
	defer operator.Close()
	if *peers != "" {
		if options.Siblings, err = follow.NewSiblings(*peers); err != nil {
			return fmt.Errorf("--peers: %w", err)
		}
		defer options.Siblings.Close()
	}
	if err := supervise.Yield(*memory); err != nil {
		logger.Warn("sync is not limited as it should be", "error", err)
	}
	volume, err := openVolume(ctx, func(err error) { noRoom(*dataDir, err, logger) }, func() (*publish.Volume, error) { return publish.Open(*dataDir, *sizeLimit) })
	if err != nil || volume == nil {
		return err
	}
	options.Volume = volume
	options.Operator, options.Origins = operator, []follow.Origin{operator}
	follow.New(options).Run(ctx)
	return volume.Close()
}
