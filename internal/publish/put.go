package publish

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// MaxModule is the size of the largest module in bytes: gateways read no more.
const MaxModule = 256 << 20

// ErrDamaged says that what arrived is not the module that was asked for.
var ErrDamaged = errors.New("damaged module")

// PutGzip takes a module into the volume. r is one gzip member with the module
// and nothing behind it; both the gzip and the module are kept. The module must
// have the given SHA-256 and size in bytes (else ErrDamaged), and it must fit (else a
// *FullError). Nothing shows before all of it is checked and on disk.
func (v *Volume) PutGzip(ctx context.Context, sha256 string, size int64, r io.Reader) error {
	if !catalog.SHA256Pattern.MatchString(sha256) {
		return fmt.Errorf("%w: %q is no SHA-256", ErrDamaged, sha256)
	}
	if size <= 0 || size > MaxModule {
		return fmt.Errorf("%w: a size of %d bytes, 1 to %d are allowed", ErrDamaged, size, MaxModule)
	}
	p := &put{volume: v, sha256: sha256, size: size}
	err := p.run(ctx, r)
	p.clean(err == nil)
	return full(err, size)
}

// put is one module on its way into the volume.
type put struct {
	volume   *Volume
	sha256   string
	size     int64
	reserved int64
	zipped   int64 // bytes of the gzip so far
	folder   string
}

func (p *put) run(ctx context.Context, r io.Reader) (err error) {
	if err := p.reserve(p.size); err != nil {
		return err
	}
	if p.folder, err = os.MkdirTemp(p.volume.tmp, "put-"); err != nil {
		return err
	}
	module, err := os.Create(filepath.Join(p.folder, moduleFile))
	if err != nil {
		return err
	}
	defer module.Close()
	zipped, err := os.Create(filepath.Join(p.folder, gzipFile))
	if err != nil {
		return err
	}
	defer zipped.Close()
	in := &source{ctx: ctx, r: r, put: p, file: zipped}
	if err := p.unzip(in, module); err != nil {
		return err
	}
	// The module last: it is what makes the pair count.
	if err := p.settle(zipped, blobPath(p.volume.dir, p.sha256)+gzipSuffix); err != nil {
		return err
	}
	if err := p.settle(module, blobPath(p.volume.dir, p.sha256)); err != nil {
		return err
	}
	return syncPath(filepath.Join(p.volume.dir, blobsDir))
}

// unzip writes the module and checks it, up to the end of everything that
// arrives.
func (p *put) unzip(in *source, module io.Writer) error {
	buffered := bufio.NewReaderSize(in, 64<<10)
	zr, err := gzip.NewReader(buffered)
	if err != nil {
		return in.explain("not a gzip", err)
	}
	zr.Multistream(false)
	sum := sha256.New()
	// One byte more than expected shows that there is more.
	n, err := io.Copy(io.MultiWriter(module, sum), io.LimitReader(zr, p.size+1))
	switch {
	case err != nil:
		return in.explain("the gzip is broken", err)
	case n != p.size:
		return fmt.Errorf("%w: %s has %s bytes, expected %d", ErrDamaged, p.sha256, count(n, p.size), p.size)
	case !matches(sum, p.sha256):
		return fmt.Errorf("%w: expected SHA-256 %s, got %x", ErrDamaged, p.sha256, sum.Sum(nil))
	}
	switch _, err := buffered.ReadByte(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return in.explain("the end is missing", err)
	}
	return fmt.Errorf("%w: %s has something behind its end", ErrDamaged, p.sha256)
}

func count(n, limit int64) string {
	if n > limit {
		return "more"
	}
	return fmt.Sprint(n)
}

func matches(sum hash.Hash, sha256 string) bool { return hex.EncodeToString(sum.Sum(nil)) == sha256 }

// settle makes a written file durable and read-only and gives it its name.
func (p *put) settle(f *os.File, path string) error {
	if err := errors.Join(f.Chmod(0o444), f.Sync()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (p *put) reserve(n int64) error {
	if err := p.volume.budget.reserve(n); err != nil {
		return err
	}
	p.reserved += n
	return nil
}

func (p *put) clean(done bool) {
	if p.folder != "" {
		_ = os.RemoveAll(p.folder) // else at the next start
	}
	var written int64
	if done {
		written = p.size + p.zipped
	}
	p.volume.budget.settle(p.reserved, written)
}

// source reads what arrives, writes it down as it is, and remembers why it
// ended.
type source struct {
	ctx  context.Context
	r    io.Reader
	put  *put
	file *os.File
	err  error // other than io.EOF
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func (s *source) read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(b)
	if n == 0 {
		return 0, err
	}
	s.put.zipped += int64(n)
	// A gzip may be a little longer than what is in it, but not by much; hostile
	// ones consist of empty blocks for ever.
	if s.put.zipped > s.put.size+s.put.size/8+64<<10 {
		return 0, fmt.Errorf("%w: the gzip of %s is longer than the module", ErrDamaged, s.put.sha256)
	}
	if err := s.put.reserve(int64(n)); err != nil {
		return 0, err
	}
	if _, err := s.file.Write(b[:n]); err != nil {
		return 0, err
	}
	return n, err
}

// explain tells a broken gzip from a broken connection, a full volume and the
// like.
func (s *source) explain(what string, err error) error {
	var pathError *os.PathError
	switch {
	case s.err != nil:
		return s.err
	case errors.As(err, &pathError):
		return err
	}
	return fmt.Errorf("%w: %s: %s: %w", ErrDamaged, s.put.sha256, what, err)
}
