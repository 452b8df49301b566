package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
)

// piece is how much is read at once, in bytes.
const piece = 64 << 10

// form is one of the two files of a module.
type form struct {
	sha256 string
	size   int64 // of the module
	zipped bool
}

func forms(sha256 string, size int64) [2]form {
	return [2]form{{sha256, size, false}, {sha256, size, true}}
}

func (f form) name() string {
	if f.zipped {
		return f.sha256 + gzipSuffix
	}
	return f.sha256
}

// fits says whether a file can be this form, as far as that is seen from
// outside.
func (f form) fits(info fs.FileInfo) bool {
	return info.Mode().IsRegular() && info.Size() > 0 && (f.zipped || info.Size() == f.size)
}

// read reads a form and gives the file that it read, if there is one. ErrDamaged
// says that it is not what it should be, or not there. rate is in bytes a second; 0 is
// as fast as it goes.
func (f form) read(ctx context.Context, dir string, rate int64) (fs.FileInfo, error) {
	path := blobPath(dir, f.name())
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: it is gone", ErrDamaged)
	case err != nil:
		return nil, err
	case !f.fits(info):
		return info, fmt.Errorf("%w: %s with %d bytes", ErrDamaged, info.Mode(), info.Size())
	}
	file, err := os.Open(path)
	if err != nil {
		return info, err
	}
	defer file.Close()
	if info, err = file.Stat(); err != nil {
		return info, err
	}
	in := &input{r: &paced{ctx: ctx, r: file, rate: rate}}
	if f.zipped {
		err = in.unzip(io.Discard, f.sha256, f.size)
	} else {
		err = in.check(in, io.Discard, f.sha256, f.size)
	}
	if errors.Is(err, syscall.EIO) { // what a disk says of a bad sector
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return info, err
}

// paced reads so many bytes a second.
type paced struct {
	ctx  context.Context
	r    io.Reader
	rate int64
}

func (p *paced) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.r.Read(b[:min(len(b), piece)])
	if p.rate > 0 && n > 0 {
		pause := time.NewTimer(time.Duration(n) * time.Second / time.Duration(p.rate))
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-p.ctx.Done():
			return n, p.ctx.Err()
		}
	}
	return n, err
}

// prints tell how files looked when their content was last known to be right,
// by their names among the blobs.
type prints struct {
	mu sync.Mutex
	of map[string]fs.FileInfo
}

func (p *prints) set(name string, info fs.FileInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil {
		p.of = map[string]fs.FileInfo{}
	}
	p.of[name] = info
}

func (p *prints) get(name string) fs.FileInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of[name]
}

func (p *prints) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.of, name)
}

// unchanged says whether a file still looks the same. What changes without
// that, by itself, is found by reading.
func unchanged(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
