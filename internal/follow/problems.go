package follow

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/higress-group/plugin-server-operator/internal/publish"
)

// maxSentence bounds a sentence of the status in bytes.
const maxSentence = 600

// problems are what keeps the volume from following, by what it concerns. They
// are written down on the volume when they change.
type problems struct {
	volume  *publish.Volume
	logger  *slog.Logger
	of      map[string]string
	written string
}

func (p *problems) set(about, sentence string) {
	if len(sentence) > maxSentence {
		sentence = strings.ToValidUTF8(sentence[:maxSentence], "") + "…"
	}
	if sentence == "" {
		delete(p.of, about)
		return
	}
	p.of[about] = sentence
}

func (p *problems) write() {
	var all sentences
	for _, about := range slices.Sorted(maps.Keys(p.of)) {
		all.add("%s", p.of[about])
	}
	if all.String() == p.written {
		return
	}
	if err := p.volume.SetStatus(publish.Status{Error: all.String()}); err != nil {
		// On a full disk it is tried again with the next event.
		p.logger.Error("cannot write the status down", "error", err)
		return
	}
	p.written = all.String()
}

// sentences joins what there is to say.
type sentences []string

func (s *sentences) add(format string, args ...any) { *s = append(*s, fmt.Sprintf(format, args...)) }

func (s sentences) String() string { return strings.Join(s, "; ") }
