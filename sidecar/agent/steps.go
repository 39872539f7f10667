package agent

import (
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// steps are what the member has done on its way into the tunnel and not told yet. Only the first of each kind counts.
type steps struct {
	mu   sync.Mutex
	seen map[string]bool
	all  []wire.Step
}

// took notes that something is done that began then.
func (s *steps) took(name string, began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[name] {
		return
	}
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	s.seen[name] = true
	s.all = append(s.all, wire.Step{Name: name, Begin: began.UTC(), End: time.Now().UTC()})
}

// take is what is to be told; nil: nothing.
func (s *steps) take() *wire.Join {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) == 0 {
		return nil
	}
	out := &wire.Join{Steps: s.all}
	s.all = nil
	return out
}
