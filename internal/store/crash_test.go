package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"
)

// putUntilKilled puts and collects modules for ever, in the working directory.
func putUntilKilled() {
	s, err := Open(".", 0)
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	for i := uint64(0); ; i++ {
		b := module(i%7, 200<<10)
		blob, err := s.Put(context.Background(), bytes.NewReader(b), sum(b))
		if err == nil {
			err = s.PutArtifact(Artifact{Digest: "sha256:" + sum(b[:100]), Blob: blob})
		}
		if err == nil && i%3 == 0 {
			_, err = s.Collect(func(sha256 string) bool { return sha256[0] < '8' }, 0)
		}
		if err != nil {
			panic(err)
		}
	}
}

// Killed at any point, the store holds only whole modules when it is opened again, and nothing else.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 8 {
		command := exec.Command(os.Args[0])
		command.Env = append(os.Environ(), crashVariable+"=yes")
		command.Dir = dir
		output, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(output, make([]byte, len("ready\n"))); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond) // the point at which it is killed must be any
		if err := command.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := command.Wait(); err == nil {
			t.Fatal("the program was not killed")
		}
		s := open(t, dir, 0)
		var want int64
		for sha256, e := range s.blobs {
			requireWhole(t, s, sha256)
			want += e.Size + e.GzipSize
		}
		if found := len(files(t, dir)); s.Used() != want || found != 3*len(s.blobs)+len(s.artifacts) {
			t.Fatalf("%d files for %d modules and %d artifacts: %v", found, len(s.blobs), len(s.artifacts), files(t, dir))
		}
	}
}
