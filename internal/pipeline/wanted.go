package pipeline

// Wanted says whether an item has the module, so that the store has to keep it.
func (q *Queue) Wanted(sha256 string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.having(sha256)) > 0
}
