package integration

import (
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// try plays one attempt to set a value: is it contested, and does the write
// succeed.
func try(i *Integrator, value string, generation int64, succeeds bool) bool {
	if i.contested(console, value, generation) {
		return true
	}
	if succeeds {
		i.noteSet(console)
	}
	return false
}

func TestContested(t *testing.T) {
	t.Parallel()
	type attempt struct {
		after      time.Duration
		value      string
		generation int64
		fails      bool
		contested  bool
	}
	for name, attempts := range map[string][]attempt{
		"the first set and two reverts are tolerated, the third is not": {
			{value: "a"}, {value: "a"}, {value: "a"}, {value: "a", contested: true}},
		"once contested it stays so, however long ago": {
			{value: "a"}, {value: "a"}, {value: "a"}, {value: "a", contested: true}, {after: time.Hour, value: "a", contested: true}},
		"an edit gives another try": {
			{value: "a"}, {value: "a"}, {value: "a"}, {value: "a", contested: true}, {value: "a", generation: 1}},
		"another value is another matter": {
			{value: "a"}, {value: "a"}, {value: "a"}, {value: "b"}, {value: "b"}, {value: "b"}, {value: "b", contested: true}},
		"reverts that are far apart do not add up": {
			{value: "a"}, {after: 6 * time.Minute, value: "a"}, {after: 6 * time.Minute, value: "a"}, {after: 6 * time.Minute, value: "a"}, {after: 6 * time.Minute, value: "a"}},
		"a write that fails was taken away by nobody": {
			{value: "a", fails: true}, {value: "a", fails: true}, {value: "a", fails: true}, {value: "a", fails: true}, {value: "a"}},
		"one revert counts once, however often the write fails": {
			{value: "a"}, {value: "a", fails: true}, {value: "a", fails: true}, {value: "a", fails: true}, {value: "a"}, {value: "a"}, {value: "a", contested: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := clocktesting.NewFakePassiveClock(time.Unix(1_000_000, 0))
			i := &Integrator{Clock: clock}
			for n, a := range attempts {
				clock.SetTime(clock.Now().Add(a.after))
				if got := try(i, a.value, a.generation, !a.fails); got != a.contested {
					t.Fatalf("attempt %d: contested = %v, want %v", n, got, a.contested)
				}
			}
		})
	}
}
