package wireguard

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
)

// tapped collects what an engine shows.
type tapped struct {
	mu  sync.Mutex
	all []string
}

func (s *tapped) take(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := binary.BigEndian.Uint16(b[2:]) // padding may follow
	s.all = append(s.all, fmt.Sprintf("%d>%d %s", b[15], b[19], b[20:n]))
}

func (s *tapped) shown() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// Both directions are shown, authentic packets alone, and nothing any more once nobody wants to see them.
func TestTap(t *testing.T) {
	a, b := pair(t)
	var seen tapped
	a.SetTap(seen.take)
	a.sendTo(b.addr, "to b")
	b.expect(t, "to b")
	b.sendTo(a.addr, "to a")
	a.expect(t, "to a")
	want := []string{"1>2 to b", "2>1 to a"}
	if got := seen.shown(); !slices.Equal(got, want) {
		t.Errorf("shown %q, want %q", got, want)
	}
	a.SetTap(nil)
	a.sendTo(b.addr, "unseen")
	b.expect(t, "unseen")
	if got := seen.shown(); !slices.Equal(got, want) {
		t.Errorf("shown %q although nobody wants to see it", got)
	}
}

// A hub shows what it passes on once.
func TestTapOfHub(t *testing.T) {
	s := newStar(t)
	var seen tapped
	s.hub.SetTap(seen.take)
	m, o := s.members[0], s.outside[0]
	o.sendTo(m.addr, "in")
	m.expect(t, "in")
	m.sendTo(o.addr, "out")
	o.expect(t, "out")
	s.outside[1].sendTo(o.addr, "a stranger's")
	s.dropped(t, "NotForwarded", 1)
	if got, want := seen.shown(), []string{"4>2 in", "2>4 out", "5>4 a stranger's"}; !slices.Equal(got, want) {
		t.Errorf("shown %q, want %q", got, want)
	}
}
