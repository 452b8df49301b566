package publish

import (
	"bufio"
	"bytes"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// maxMetadata is how much of a metadata.txt is read, in bytes.
const maxMetadata = 64 << 10

// Metadata is the text of metadata.txt: one "key: value" a line. The first five
// lines are always there, the others where something is known. A line break or
// another control character in a value becomes a space.
func Metadata(e catalog.Entry) []byte {
	var b bytes.Buffer
	line := func(key, value string, always bool) {
		value = strings.TrimSpace(oneLine(value))
		switch {
		case value != "":
			b.WriteString(key + ": " + value + "\n")
		case always:
			b.WriteString(key + ":\n")
		}
	}
	line("name", e.Name, true)
	line("version", e.Version, true)
	line("size", strconv.FormatInt(e.Size, 10), true)
	line("md5", e.MD5, true)
	line("created", e.Created, true)
	line("sha256", e.SHA256, false)
	line("source", e.Source, false)
	line("digest", e.Digest, false)
	line("description", e.Description, false)
	return b.Bytes()
}

// ParseMetadata takes from an existing metadata.txt what the module itself does
// not say. What is missing or malformed stays empty.
func ParseMetadata(r io.Reader) (created time.Time, description string) {
	lines := bufio.NewScanner(io.LimitReader(r, maxMetadata))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch value = strings.TrimSpace(value); strings.TrimSpace(key) {
		case "created":
			created, _ = time.Parse(time.RFC3339, value) // unknown if malformed
		case "description":
			description = value
		}
	}
	return created, description
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
