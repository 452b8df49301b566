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
	behind  bool  // the newest catalog cannot be published, over all lives of sync too
	damaged int64 // files so far, over all lives of sync
	written *publish.Status
}

func newProblems(volume *publish.Volume, logger *slog.Logger) problems {
	before, err := volume.Status()
	if err != nil {
		logger.Warn("the status on the volume cannot be read; it is written anew", "error", err)
	}
	return problems{volume: volume, logger: logger, of: map[string]string{}, behind: before.Behind, damaged: before.Damaged}
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

// write writes down what there is to say, and tells whether that is another
// sentence than the last one.
func (p *problems) write() (news bool) {
	var all sentences
	for _, about := range slices.Sorted(maps.Keys(p.of)) {
		all.add("%s", p.of[about])
	}
	used, budget := p.volume.Usage()
	now := publish.Status{Error: all.String(), Behind: p.behind, Damaged: p.damaged, Used: mebibytes(used), Budget: mebibytes(budget)}
	if p.written != nil && *p.written == now {
		return false
	}
	if err := p.volume.SetStatus(now); err != nil {
		// On a full disk it is tried again with the next event.
		p.logger.Error("cannot write the status down", "error", err)
		return false
	}
	news = p.written != nil && p.written.Error != now.Error
	p.written = &now
	return news
}

// mebibytes rounds up, so that small changes make no news.
func mebibytes(n int64) int64 { return (n + 1<<20 - 1) >> 20 << 20 }

// sentences joins what there is to say.
type sentences []string

func (s *sentences) add(format string, args ...any) { *s = append(*s, fmt.Sprintf(format, args...)) }

func (s sentences) String() string { return strings.Join(s, "; ") }
