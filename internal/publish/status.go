package publish

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// maxStatus bounds the reading of sync-status.json in bytes.
const maxStatus = 64 << 10

// Status is what the writer of a volume tells its readers.
type Status struct {
	// Error says what keeps the volume from following the newest catalog: a
	// sentence for the user. Empty if nothing does.
	Error string `json:"error"`
	// Damaged is the number of damaged files that were found on the volume so far.
	Damaged int64 `json:"damaged,omitempty"`
	// Used and Budget are what Usage gave, in whole MiB.
	Used   int64 `json:"used,omitempty"`
	Budget int64 `json:"budget,omitempty"`
}

// SetStatus writes the status down.
func (v *Volume) SetStatus(s Status) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	path := filepath.Join(v.tmp, statusFile)
	// Not synced: after a crash it is written again anyway.
	err = v.disk.do("write", path, func(path string) error { return os.WriteFile(path, append(b, '\n'), 0o644) })
	if err := errors.Join(err, v.disk.chmod(path, 0o644)); err != nil {
		return err
	}
	return v.disk.rename(path, filepath.Join(v.dir, statusFile))
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
