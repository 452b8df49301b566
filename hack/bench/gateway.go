//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// gateway does what a load asks for in the way of a gateway: with Go's client,
// which undoes the gzip, and with a SHA-256 of every module.
func gateway(l load) (loaded, error) {
	var mu sync.Mutex
	done := loaded{Failed: map[string]int{}}
	began := time.Now()
	var working sync.WaitGroup
	for range l.Connections {
		working.Go(func() {
			client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DisableCompression: !l.Gzip, DisableKeepAlives: !l.KeepAlive}}
			defer client.CloseIdleConnections()
			for time.Since(began) < l.For {
				begin := time.Now()
				n, err := download(client, "http://"+l.Targets[0]+l.Paths[0])
				mu.Lock()
				if err != nil {
					done.Failed[err.Error()]++
				} else {
					done.Requests++
					done.Bytes += n
					done.each = append(done.each, time.Since(begin))
				}
				mu.Unlock()
			}
		})
	}
	working.Wait()
	done.Took = time.Since(began)
	return done, nil
}

// download gives the number of bytes of a module.
func download(client *http.Client, url string) (int64, error) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %s", response.Status)
	}
	return io.Copy(sha256.New(), response.Body)
}
