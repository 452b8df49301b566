package publish

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// maxStatus bounds the reading of sync-status.json in bytes.
const maxStatus = 64 << 10

// Status is what the writer of a volume tells its readers.
type Status struct {
	// Error says what keeps the volume from following the newest catalog: a
	// sentence for the user. Empty if nothing does.
	Error string `json:"error"`
	// Behind says that the volume cannot take up the newest catalog, so that it is
	// not known here what that one declares.
	Behind bool `json:"behind,omitempty"`
	// Damaged is the number of damaged files that were found on the volume so far.
	Damaged int64 `json:"damaged,omitempty"`
	// Used and Budget are what Usage gave, in whole MiB.
	Used   int64 `json:"used,omitempty"`
	Budget int64 `json:"budget,omitempty"`
}

// SetStatus writes the status down: beside the last one, or over it where the
// disk has no room for both, since just then there is something to say.
func (v *Volume) SetStatus(s Status) error {
	b, err := s.encode()
	if err != nil {
		return err
	}
	path, place := filepath.Join(v.tmp, statusFile), filepath.Join(v.dir, statusFile)
	// Not synced: after a crash it is written again anyway.
	err = v.disk.do("write", path, func(path string) error { return os.WriteFile(path, b, 0o644) })
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		failed := v.disk.do("overwrite", place, func(place string) error { return overwrite(place, b) })
		if failed != nil {
			return errors.Join(err, failed)
		}
		return ignoreGone(v.disk.remove(path))
	}
	if err := errors.Join(err, v.disk.chmod(path, 0o644)); err != nil {
		return err
	}
	return v.disk.rename(path, place)
}

// OverwriteStatus writes over the status of a volume that has no room for a
// writer to begin. Where there was none, there is none.
func OverwriteStatus(dir string, s Status) error {
	b, err := s.encode()
	if err != nil {
		return err
	}
	return overwrite(filepath.Join(dir, statusFile), b)
}

// encode fills a block, so that the next status has its place in it.
func (s Status) encode() ([]byte, error) {
	b, err := json.Marshal(s)
	b = append(b, bytes.Repeat([]byte{' '}, max(block-1-len(b), 0))...)
	return append(b, '\n'), err
}

// overwrite writes over a file that is there. Whoever reads it at the very
// moment may find half of it, and finds all of it the next time.
func overwrite(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Truncate(int64(len(b))), f.Close())
}

// Status reads what was written down last.
func (v *Volume) Status() (Status, error) { return ReadStatus(v.dir) }

// ReadStatus reads the status of a volume. One that nobody has written yet is
// empty.
func ReadStatus(dir string) (Status, error) {
	var s Status
	b, err := readBounded(filepath.Join(dir, statusFile), maxStatus)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}
