//go:build !linux

package serve

import (
	"context"
	"net"
)

// conn exists on Linux only: elsewhere net/http sends files.
type conn struct{ full, more bool }

type connListener struct{ net.Listener }

func withConn(ctx context.Context, _ net.Conn) context.Context { return ctx }

func connOf(context.Context) *conn { return nil }

func (*conn) wait() error { return nil }

func (*conn) queued() int64 { return 0 }
