package publish

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
)

// input is something to be checked. It remembers why it ended, which tells
// broken content from a broken connection, a full volume and the like.
type input struct {
	r   io.Reader
	err error // other than io.EOF
}

func (in *input) Read(b []byte) (int, error) {
	n, err := in.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		in.err = err
	}
	return n, err
}

// unzip takes the input for one gzip member with a module and nothing behind
// it, writes the module, and checks it up to the end of everything that arrives.
func (in *input) unzip(module io.Writer, hash string, size int64) error {
	buffered := bufio.NewReaderSize(in, 64<<10)
	zr, err := gzip.NewReader(buffered)
	if err != nil {
		return in.explain(hash, "not a gzip", err)
	}
	zr.Multistream(false)
	if err := in.check(zr, module, hash, size); err != nil {
		return err
	}
	switch _, err := buffered.ReadByte(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return in.explain(hash, "the end is missing", err)
	}
	return fmt.Errorf("%w: %s has something behind its end", ErrDamaged, hash)
}

// check copies a module from r, which reads from the input, and checks it.
func (in *input) check(r io.Reader, to io.Writer, hash string, size int64) error {
	sum := sha256.New()
	// One byte more than expected shows that there is more.
	n, err := io.Copy(io.MultiWriter(to, sum), io.LimitReader(r, size+1))
	switch {
	case err != nil:
		return in.explain(hash, "the gzip is broken", err)
	case n != size:
		return fmt.Errorf("%w: %s has %s bytes, expected %d", ErrDamaged, hash, count(n, size), size)
	case !matches(sum, hash):
		return fmt.Errorf("%w: expected SHA-256 %s, got %x", ErrDamaged, hash, sum.Sum(nil))
	}
	return nil
}

func (in *input) explain(hash, what string, err error) error {
	var pathError *os.PathError
	switch {
	case in.err != nil:
		return in.err
	case errors.As(err, &pathError): // writing failed
		return err
	}
	return fmt.Errorf("%w: %s: %s: %w", ErrDamaged, hash, what, err)
}

func count(n, limit int64) string {
	if n > limit {
		return "more"
	}
	return fmt.Sprint(n)
}

func matches(sum hash.Hash, sha256 string) bool { return hex.EncodeToString(sum.Sum(nil)) == sha256 }
