package hostile

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// blobs answers for blobs alone.
func blobs(give func(w http.ResponseWriter)) answer {
	return func(_ *Server, w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		give(w)
		return true
	}
}

// bytesOf answers with these.
func bytesOf(b []byte) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { _, _ = w.Write(b) }
}

// chunks answers without saying how many bytes come.
func chunks(b []byte) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.(http.Flusher).Flush()
		_, _ = w.Write(b)
	}
}

// raw answers with these bytes on the connection, and closes it.
func raw(b string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		connection, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(connection, b)
		_ = connection.Close()
	}
}

func large(w http.ResponseWriter) {
	w.Header().Set("Content-Length", fmt.Sprint(300<<20))
	_, _ = w.Write(append(Good("large"), make([]byte, 1<<20)...))
}

// transfers are layers that come otherwise than the manifest says.
func transfers() []Case {
	const ok = "HTTP/1.1 200 OK\r\n"
	transfer := func(name string, reason failure.Reason, says string, give func(http.ResponseWriter)) Case {
		return Case{Kind: Transfer, Name: "transfer-" + name, Reason: reason, Says: says, answer: blobs(give)}
	}
	size := len(changed("transfer-other-bytes"))
	same := repeat([]byte("x"), size)
	other, short, broken := failure.DigestMismatch, failure.Truncated, failure.Unreachable
	length := "in another length than its manifest says"
	whole := "did not give a whole HTTP answer"
	return []Case{
		transfer("other-bytes", other, "gave other bytes", bytesOf(same)),
		transfer("short", short, length, bytesOf(same[:5])),
		transfer("long", short, length, bytesOf(append(same, same...))),
		transfer("short-in-chunks", short, length, chunks(changed("transfer-short-in-chunks")[:9])),
		transfer("long-in-chunks", other, "gave other bytes", chunks(append(changed("transfer-long-in-chunks"), "more"...))),
		transfer("cut", short, "broke in the middle", raw(fmt.Sprintf(ok+"Content-Length: %d\r\n\r\n\x00asm", len(changed("transfer-cut"))))),
		transfer("malformed-chunks", short, "broke in the middle", raw(ok+"Transfer-Encoding: chunked\r\n\r\nzz\r\n")),
		transfer("endless-chunk", short, "broke in the middle", raw(ok+"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n")),
		transfer("two-lengths", broken, whole, raw(ok+"Content-Length: 5\r\nContent-Length: 50\r\n\r\n12345")),
		transfer("long-header", broken, whole, raw(ok+"X: "+strings.Repeat("x", 300<<10)+"\r\n\r\n")),
		transfer("header-with-nul", broken, whole, raw(ok+"X\x00: x\r\n\r\n")),
		transfer("another-protocol", broken, whole, raw("SSH-2.0-OpenSSH_9.9\r\n")),
		transfer("no-answer", broken, "closed the connection without an answer", raw("")),
	}
}

// status answers everything with a status and a body that quotes secrets.
func status(code int) answer {
	return func(_ *Server, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		if r.Method != http.MethodHead && code != http.StatusNoContent && code != http.StatusNotModified {
			_, _ = fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"%s\u001b[2J","detail":{"Authorization":%q}}]}`, Canary, r.Header.Get("Authorization")) //nolint:gosec // as hostile servers do
		}
		return true
	}
}

// answers are statuses other than the one that is hoped for.
func answers() []Case {
	answered := func(name string, reason failure.Reason, says string, code int) Case {
		return Case{Kind: Answer, Name: "answer-" + name, Reason: reason, Says: says, answer: status(code)}
	}
	server := failure.RegistryError
	return []Case{
		answered("401", failure.Unauthorized, "refused the login", http.StatusUnauthorized),
		answered("403", failure.Unauthorized, "does not allow to pull", http.StatusForbidden),
		answered("404", failure.NotFound, "(404)", http.StatusNotFound),
		answered("429", failure.TooManyRequests, "(429)", http.StatusTooManyRequests),
		answered("500", server, "a problem of its own", http.StatusInternalServerError),
		answered("204", server, "answered 204", http.StatusNoContent),
		answered("304", server, "answered 304", http.StatusNotModified),
		{Kind: Answer, Name: "answer-206-for-a-layer", Reason: server, Says: "answered 206", answer: blobs(func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(changed("answer-206-for-a-layer"))
		})},
		{Kind: Answer, Name: "answer-304-for-a-file", Reason: server, Says: "answered 304", url: "https://{host}/files/answer-304-for-a-file.wasm", answer: func(_ *Server, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusNotModified)
			return true
		}},
	}
}
