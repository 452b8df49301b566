package publish

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// disk is the only way in which a volume is changed.
type disk struct {
	// fault is called before each step; tests let it fail the step, fill the disk
	// or end the process. It is nil otherwise.
	fault func(step string) error
}

func (d disk) step(name string) error {
	if d.fault == nil {
		return nil
	}
	return d.fault(name)
}

// do takes a step on a path.
func (d disk) do(name, path string, how func(path string) error) error {
	if err := d.step(name); err != nil {
		return &os.PathError{Op: name, Path: path, Err: err}
	}
	return how(path)
}

func (d disk) remove(path string) error    { return d.do("remove", path, os.Remove) }
func (d disk) removeAll(path string) error { return d.do("remove all", path, os.RemoveAll) }

func (d disk) mkdir(path string) error {
	return d.do("mkdir", path, func(path string) error { return os.Mkdir(path, 0o755) })
}

func (d disk) mkdirAll(path string) error {
	return d.do("mkdir all", path, func(path string) error { return os.MkdirAll(path, 0o755) })
}

func (d disk) mkdirTemp(dir, pattern string) (path string, err error) {
	err = d.do("mkdir temp", dir, func(dir string) error {
		path, err = os.MkdirTemp(dir, pattern)
		return err
	})
	return path, err
}

func (d disk) chmod(path string, mode fs.FileMode) error {
	return d.do("chmod", path, func(path string) error { return os.Chmod(path, mode) })
}

// touch makes a file or folder as old as now.
func (d disk) touch(path string) error {
	return d.do("touch", path, func(path string) error {
		now := time.Now()
		return os.Chtimes(path, now, now)
	})
}

func (d disk) rename(from, to string) error {
	return d.do("rename", to, func(to string) error { return os.Rename(from, to) })
}

func (d disk) link(file, name string) error {
	return d.do("link", name, func(name string) error { return os.Link(file, name) })
}

func (d disk) symlink(target, name string) error {
	return d.do("symlink", name, func(name string) error { return os.Symlink(target, name) })
}

// sync makes the content of a file, or the names in a folder, durable.
func (d disk) sync(path string) error {
	return d.do("sync", path, func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// create makes a new file.
func (d disk) create(path string) (f *file, err error) {
	err = d.do("create", path, func(path string) error {
		opened, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		f = &file{opened, d}
		return err
	})
	return f, err
}

// file is a new file on a volume.
type file struct {
	*os.File
	disk disk
}

func (f *file) Write(p []byte) (n int, err error) {
	err = f.disk.do("write", f.Name(), func(string) error {
		n, err = f.File.Write(p)
		return err
	})
	return n, err
}

func (f *file) readOnly() error {
	return f.disk.do("chmod", f.Name(), func(string) error { return f.Chmod(0o444) })
}

// settle makes the file read-only and durable.
func (f *file) settle() error {
	if err := f.readOnly(); err != nil {
		return err
	}
	return f.disk.do("sync", f.Name(), func(string) error { return f.Sync() })
}
