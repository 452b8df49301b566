// Command client is what the node tests run inside the cluster to download
// plugins as a gateway does: a plain Go client that accepts gzip by itself.
//
//	client wait                      does nothing until it is told to stop
//	client get URL                   prints one answer as JSON
//	client load [flags] URL          downloads until standard input ends, prints a summary as JSON
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Answer is one answer to a request.
type Answer struct {
	Status  int     `json:"status"`
	Size    int64   `json:"size"`
	SHA256  string  `json:"sha256"`
	Seconds float64 `json:"seconds"`
	Type    string  `json:"type"`
	// Text is the beginning of a body that is not a module.
	Text  string `json:"text,omitempty"`
	Error string `json:"error,omitempty"`

	refused bool // the connection was
}

// Summary of a load.
type Summary struct {
	Requests int `json:"requests"`
	// Failures by what went wrong: anything but 200 with the expected bytes.
	Failures map[string]int `json:"failures"`
	// FailedAt is when the first and the last failure came, in seconds since the start.
	FailedAt [2]float64 `json:"failedAt"`
	// Slowest answer in seconds.
	Slowest float64 `json:"slowest"`
	// Retried is how many connections were refused, and tried again.
	Retried int `json:"retried"`
}

func main() {
	var err error
	switch verb := append(os.Args, "")[1]; verb {
	case "wait":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		<-stop
	case "get":
		err = print(get(context.Background(), &http.Client{}, append(os.Args, "")[2], nil))
	case "load":
		err = load(os.Args[2:])
	default:
		err = fmt.Errorf("unknown verb %q: wait, get or load", verb)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func print(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

// get downloads url with the time that a gateway gives a request.
func get(ctx context.Context, c *http.Client, url string, header http.Header) Answer {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Answer{Error: err.Error()}
	}
	for k, v := range header {
		request.Header[k] = v
	}
	response, err := c.Do(request)
	if err != nil {
		return Answer{Error: err.Error(), Seconds: time.Since(start).Seconds(), refused: errors.Is(err, syscall.ECONNREFUSED)}
	}
	defer response.Body.Close()
	sum, text := sha256.New(), &head{}
	size, err := io.Copy(io.MultiWriter(sum, text), response.Body)
	answer := Answer{
		Status: response.StatusCode, Size: size, SHA256: hex.EncodeToString(sum.Sum(nil)),
		Seconds: time.Since(start).Seconds(), Type: response.Header.Get("Content-Type"),
	}
	if err != nil {
		answer.Error = err.Error()
	}
	if answer.Type != "application/wasm" {
		answer.Text = string(text.bytes)
	}
	return answer
}

// head keeps the beginning of what is written to it.
type head struct{ bytes []byte }

func (h *head) Write(p []byte) (int, error) {
	h.bytes = append(h.bytes, p[:min(len(p), 1<<20-len(h.bytes))]...)
	return len(p), nil
}

// load downloads url again and again, from several workers, each request on a
// connection of its own as from many gateways.
func load(args []string) error {
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	workers := f.Int("workers", 4, "downloads at once")
	want := f.String("sha256", "", "what every body must have, or several of which it must have one")
	pause := f.Duration("pause", 0, "pause of a worker between two downloads")
	least := f.Int("at-least", 0, "downloads to make even after the end was asked for")
	retry := f.Bool("retry", false, "try again, as a gateway does, where a connection is refused")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // until the test closes the other end
		_, _ = io.Copy(io.Discard, bufio.NewReader(os.Stdin))
		cancel()
	}()
	var mu sync.Mutex
	summary := Summary{Failures: map[string]int{}}
	more := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return ctx.Err() == nil || summary.Requests < *least
	}
	began := time.Now()
	var running sync.WaitGroup
	for range *workers {
		running.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			for more() {
				answer, retried := download(context.WithoutCancel(ctx), client, f.Arg(0), *retry)
				mu.Lock()
				summary.add(answer, *want, time.Since(began))
				summary.Retried += retried
				mu.Unlock()
				time.Sleep(*pause)
			}
		})
	}
	running.Wait()
	return print(summary)
}

// download gets a url. Of what a gateway tries again, up to five times and from
// half a second on, only refused connections are tried again here.
func download(ctx context.Context, client *http.Client, url string, retry bool) (answer Answer, retried int) {
	for pause := 500 * time.Millisecond; ; pause *= 2 {
		answer = get(ctx, client, url, nil)
		if !retry || !answer.refused || retried == 4 {
			return answer, retried
		}
		retried++
		time.Sleep(pause)
	}
}

func (s *Summary) add(a Answer, want string, after time.Duration) {
	s.Requests++
	s.Slowest = max(s.Slowest, a.Seconds)
	switch {
	case a.Error != "":
		s.Failures[a.Error]++
	case a.Status != http.StatusOK:
		s.Failures[fmt.Sprintf("status %d", a.Status)]++
	case !strings.Contains(want, a.SHA256):
		s.Failures["other bytes: "+a.SHA256]++
	default:
		return
	}
	if s.FailedAt[0] == 0 {
		s.FailedAt[0] = after.Seconds()
	}
	s.FailedAt[1] = after.Seconds()
}
