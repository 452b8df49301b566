package publish

// OpenFaulty opens a volume on a disk with faults: fault is called before each
// step that changes something.
func OpenFaulty(dir string, limit int64, fault func(step string) error) (*Volume, error) {
	return open(dir, limit, disk{fault})
}
