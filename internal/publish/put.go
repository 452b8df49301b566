package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
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
// *FullError). Nothing shows before all of it is checked and on disk. Where r has
// a method ContentLength that says how long the gzip is, a module that does not fit is
// refused before anything of it is read; a negative length is an unknown one.
func (v *Volume) PutGzip(ctx context.Context, sha256 string, size int64, r io.Reader) error {
	if !catalog.SHA256Pattern.MatchString(sha256) {
		return fmt.Errorf("%w: %q is no SHA-256", ErrDamaged, sha256)
	}
	if size <= 0 || size > MaxModule {
		return fmt.Errorf("%w: a size of %d bytes, 1 to %d are allowed", ErrDamaged, size, MaxModule)
	}
	p := &put{volume: v, sha256: sha256, size: size}
	if known, ok := r.(interface{ ContentLength() int64 }); ok {
		p.expected = max(known.ContentLength(), 0)
	}
	err := p.run(ctx, r)
	p.clean(err == nil)
	return full(err, size+p.expected)
}

// put is one module on its way into the volume.
type put struct {
	volume   *Volume
	sha256   string
	size     int64
	expected int64 // bytes of the gzip, as far as they are known beforehand
	reserved int64
	zipped   int64 // bytes of the gzip so far
	folder   string
}

func (p *put) run(ctx context.Context, r io.Reader) (err error) {
	disk := p.volume.disk
	if err := p.checkLength(p.expected); err != nil {
		return err
	}
	if err := p.reserve(p.size + p.expected); err != nil {
		return err
	}
	if p.folder, err = disk.mkdirTemp(p.volume.tmp, "put-"); err != nil {
		return err
	}
	module, err := disk.create(filepath.Join(p.folder, moduleFile))
	if err != nil {
		return err
	}
	defer module.Close()
	zipped, err := disk.create(filepath.Join(p.folder, gzipFile))
	if err != nil {
		return err
	}
	defer zipped.Close()
	in := &input{r: &source{ctx: ctx, r: r, put: p, file: zipped}}
	if err := in.unzip(module, p.sha256, p.size); err != nil {
		return err
	}
	// The module last: it is what makes the pair count.
	if err := p.settle(zipped, p.sha256+gzipSuffix); err != nil {
		return err
	}
	if err := p.settle(module, p.sha256); err != nil {
		return err
	}
	return disk.sync(filepath.Join(p.volume.dir, blobsDir))
}

// settle makes a written file durable and read-only and gives it its name.
func (p *put) settle(f *file, name string) error {
	if err := f.settle(); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := p.volume.disk.rename(f.Name(), blobPath(p.volume.dir, name)); err != nil {
		return err
	}
	p.volume.known.set(name, info)
	return nil
}

// reserve takes n more bytes for the module. What does not fit is told of the
// module as a whole, so far as it is known: it has to fit as a whole.
func (p *put) reserve(n int64) error {
	err := p.volume.budget.reserveModule(n)
	var full *FullError
	if errors.As(err, &full) {
		full.Needed += p.reserved
		full.Free += p.reserved
	}
	if err != nil {
		return err
	}
	p.reserved += n
	return nil
}

// checkLength: a gzip may be a little longer than what is in it, but not by
// much; hostile ones consist of empty blocks for ever.
func (p *put) checkLength(zipped int64) error {
	if zipped > p.size+p.size/8+64<<10 {
		return fmt.Errorf("%w: the gzip of %s is longer than the module", ErrDamaged, p.sha256)
	}
	return nil
}

func (p *put) clean(done bool) {
	if p.folder != "" {
		_ = p.volume.disk.removeAll(p.folder) // else at the next start
	}
	var written int64
	if done {
		written = p.size + p.zipped
	}
	p.volume.budget.settle(p.reserved, written)
}

// source reads what arrives and writes it down as it is.
type source struct {
	ctx  context.Context
	r    io.Reader
	put  *put
	file *file
}

func (s *source) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(b)
	if n == 0 {
		return 0, err
	}
	s.put.zipped += int64(n)
	if err := s.put.checkLength(s.put.zipped); err != nil {
		return 0, err
	}
	if more := min(s.put.zipped-s.put.expected, int64(n)); more > 0 {
		if err := s.put.reserve(more); err != nil {
			return 0, err
		}
	}
	if _, err := s.file.Write(b[:n]); err != nil {
		return 0, err
	}
	return n, err
}
