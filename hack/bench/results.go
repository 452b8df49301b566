//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// section is the result of one part.
type section struct {
	name  string
	title string
	text  string // how it was measured
	head  []string
	rows  [][]string
	goals []string
	raw   any
	took  time.Duration
}

// check notes whether a goal is met.
func (s *section) check(met bool, goal string, values ...any) {
	mark := "met"
	if !met {
		mark = "**missed**"
	}
	s.goals = append(s.goals, fmt.Sprintf(goal, values...)+": "+mark)
}

func (s *section) markdown() string {
	var out strings.Builder
	fmt.Fprintf(&out, "## %s\n\n%s\n\n", s.title, s.text)
	rule := make([]string, len(s.head))
	for i := range rule {
		rule[i] = "---"
	}
	for _, row := range append([][]string{s.head, rule}, s.rows...) {
		fmt.Fprintf(&out, "| %s |\n", strings.Join(row, " | "))
	}
	if len(s.goals) > 0 {
		fmt.Fprintf(&out, "\nGoals:\n\n- %s\n", strings.Join(s.goals, "\n- "))
	}
	return out.String()
}

// write writes RESULTS.md and the raw output.
func (b *bench) write(sections []section) error {
	if b.out == "" {
		return nil
	}
	raw := filepath.Join(b.out, "raw")
	if err := os.MkdirAll(raw, 0o755); err != nil {
		return err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "# Benchmarks\n\nWritten by `make bench`; the raw output is in `raw/`.\n\n%s\n", b.machine())
	var failed error
	for _, s := range sections {
		fmt.Fprintf(&out, "\n%s", s.markdown())
		encoded, err := json.MarshalIndent(s.raw, "", " ")
		if err != nil {
			return err
		}
		failed = errors.Join(failed, os.WriteFile(filepath.Join(raw, s.name+".json"), append(encoded, '\n'), 0o644))
	}
	name := filepath.Join(b.out, "RESULTS.md")
	b.say("writing %s", name)
	return errors.Join(failed, os.WriteFile(name, []byte(out.String()), 0o644))
}

// machine says on what was measured.
func (b *bench) machine() string {
	var kernel unix.Utsname
	_ = unix.Uname(&kernel) // leaves it empty
	memory, _, _ := strings.Cut(lineOf("/proc/meminfo", "MemTotal:"), "\n")
	version, _ := exec.Command(b.nginx, "-v").CombinedOutput()
	commit, _ := exec.Command("git", "describe", "--always", "--dirty").Output()
	_, two := hierarchies()
	group := "1"
	if two {
		group = "2"
	}
	rows := [][2]string{
		{"date", b.began.UTC().Format("2006-01-02 15:04 UTC")},
		{"machine", fmt.Sprintf("%s, %d processors, memory %s", lineOf("/proc/cpuinfo", "model name\t:"), runtime.NumCPU(), memory)},
		{"kernel", unix.ByteSliceToString(kernel.Release[:]) + ", cgroup version " + group},
		{"Go", runtime.Version()},
		{"nginx", strings.TrimPrefix(strings.TrimSpace(string(version)), "nginx version: ")},
		{"commit", strings.TrimSpace(string(commit))},
		{"load of the machine before", b.load},
		{"time of the run", time.Since(b.began).Round(time.Second).String()},
	}
	var out strings.Builder
	out.WriteString("| | |\n|---|---|\n")
	for _, row := range rows {
		fmt.Fprintf(&out, "| %s | %s |\n", row[0], row[1])
	}
	return out.String()
}

// lineOf gives the rest of the first line of a file that begins so.
func lineOf(path, begin string) string {
	content, _ := os.ReadFile(path)
	_, rest, _ := strings.Cut("\n"+string(content), "\n"+begin)
	rest, _, _ = strings.Cut(rest, "\n")
	return strings.TrimSpace(rest)
}
