package catalog

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sha(c string) string { return strings.Repeat(c, 64) }

func TestNext(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	in := func(d time.Duration) string { return FormatTime(now.Add(d)) }
	a := Entry{Name: "a", Version: "1", SHA256: sha("a"), Size: 1}
	a2 := Entry{Name: "a", Version: "1", SHA256: sha("b"), Size: 2}
	aPending := Entry{Name: "a", Version: "1"}
	aRetained := a
	aRetained.RetainedUntil = in(time.Hour)

	for name, test := range map[string]struct {
		previous  *Catalog
		declared  []Entry
		retention time.Duration
		want      *Catalog
	}{
		"the first one":                  {nil, []Entry{a}, time.Hour, &Catalog{Sequence: now.UnixMilli(), Entries: []Entry{a}}},
		"nothing new keeps the sequence": {&Catalog{Sequence: 7, Entries: []Entry{a}}, []Entry{a}, time.Hour, &Catalog{Sequence: 7, Entries: []Entry{a}}},
		"a sequence from the future still rises": {&Catalog{Sequence: now.UnixMilli() + 50, Entries: []Entry{a}}, []Entry{a2}, 0,
			&Catalog{Sequence: now.UnixMilli() + 51, Entries: []Entry{a2}}},
		"what was served stays while the new one is pending": {&Catalog{Sequence: 7, Entries: []Entry{a}}, []Entry{aPending}, time.Hour,
			&Catalog{Sequence: 7, Entries: []Entry{a}}},
		"a replaced module stays by content": {&Catalog{Sequence: 7, Entries: []Entry{a}}, []Entry{a2}, time.Hour,
			&Catalog{Sequence: now.UnixMilli(), Entries: []Entry{a2}, Superseded: []Superseded{{a.SHA256, 1, in(time.Hour)}}}},
		"a module that comes back is superseded no more": {
			&Catalog{Entries: []Entry{a2}, Superseded: []Superseded{{a.SHA256, 1, in(time.Minute)}}}, []Entry{a}, time.Hour,
			&Catalog{Sequence: now.UnixMilli(), Entries: []Entry{a}, Superseded: []Superseded{{a2.SHA256, 2, in(time.Hour)}}}},
		"removed entries are retained":      {&Catalog{Entries: []Entry{a}}, nil, time.Hour, &Catalog{Sequence: now.UnixMilli(), Entries: []Entry{aRetained}}},
		"retained entries keep their time":  {&Catalog{Sequence: 7, Entries: []Entry{aRetained}}, nil, 5 * time.Hour, &Catalog{Sequence: 7, Entries: []Entry{aRetained}}},
		"retained entries can come back":    {&Catalog{Entries: []Entry{aRetained}}, []Entry{a}, time.Hour, &Catalog{Sequence: now.UnixMilli(), Entries: []Entry{a}}},
		"and come back while pending":       {&Catalog{Entries: []Entry{aRetained}}, []Entry{aPending}, time.Hour, &Catalog{Sequence: now.UnixMilli(), Entries: []Entry{a}}},
		"without retention they go at once": {&Catalog{Entries: []Entry{a}}, nil, 0, &Catalog{Sequence: now.UnixMilli()}},
		"what was never there is not kept":  {&Catalog{Entries: []Entry{aPending}}, nil, time.Hour, &Catalog{Sequence: now.UnixMilli()}},
		"expired things go": {&Catalog{
			Entries:    []Entry{{Name: "a", Version: "1", SHA256: sha("a"), Size: 1, RetainedUntil: in(0)}},
			Superseded: []Superseded{{sha("c"), 3, in(-time.Second)}},
		}, nil, time.Hour, &Catalog{Sequence: now.UnixMilli()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Next(test.previous, test.declared, test.retention, now)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("unexpected catalog (-want +got):\n%s", diff)
			}
			if again := Next(got, test.declared, test.retention, now.Add(time.Second)); again.Revision() != got.Revision() || again.Sequence != got.Sequence {
				t.Errorf("the catalog changed by itself: %+v, then %+v", got, again)
			}
		})
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := &Catalog{
		Entries:    []Entry{{RetainedUntil: FormatTime(now.Add(time.Hour))}, {}},
		Superseded: []Superseded{{RetainedUntil: FormatTime(now.Add(time.Minute))}},
	}
	if got, want := c.Expiry(), now.Add(time.Minute); !got.Equal(want) {
		t.Errorf("Expiry() = %s, want %s", got, want)
	}
	if got := (&Catalog{Entries: []Entry{{}}}).Expiry(); !got.IsZero() {
		t.Errorf("Expiry() = %s without anything retained", got)
	}
}
