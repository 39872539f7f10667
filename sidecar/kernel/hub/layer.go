//go:build linux

package hub

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"

	"github.com/tenantwire/tenantwire/sidecar/nft"
)

// layer is sets of which one at most has each address.
type layer struct {
	sets    []*nftables.Set
	place   func(of uint32) (in *nftables.Set, val []byte) // where a region belongs, and what is said of it there
	regions []region                                       // what they are
	broken  bool                                           // they are not that
}

// step is a region that goes or comes.
type step struct {
	region
	comes bool
}

// become changes the sets. What stays is not touched, and what a transaction changes changes at once.
func (l *layer) become(c *nft.Conn, next []region) error {
	was := l.regions
	if l.broken {
		was = nil
		for _, s := range l.sets {
			c.FlushSet(s)
		}
	}
	steps := stepsOf(changes(was, next))
	for len(steps) > 0 || l.broken {
		n := enough(steps)
		if err := errors.Join(l.make(c, steps[:n]), c.Flush()); err != nil {
			l.broken = true
			return fmt.Errorf("change peers in nftables: %w", err)
		}
		steps, l.broken = steps[n:], false
	}
	l.regions = next
	return nil
}

func stepsOf(gone, come []region) []step {
	out := make([]step, 0, len(gone)+len(come))
	for _, r := range gone {
		out = append(out, step{r, false})
	}
	for _, r := range come {
		out = append(out, step{r, true})
	}
	slices.SortStableFunc(out, func(a, b step) int { return a.first.Compare(b.first) })
	return out
}

// enough is how many steps make a transaction: the kernel takes no message without end. A region that goes takes what comes in its place along, so
// that no address is without an owner in between, as long as that is not too much.
func enough(steps []step) int {
	const few, most = 512, 2048
	if len(steps) <= few {
		return len(steps)
	}
	end := steps[0].end
	for i, s := range steps {
		switch {
		case i >= most, i >= few && !s.first.Less(end):
			return i
		case end.Less(s.end) && !s.comes:
			end = s.end
		}
	}
	return len(steps)
}

// make asks for steps: what goes first.
func (l *layer) make(c *nft.Conn, steps []step) error {
	for _, comes := range []bool{false, true} {
		what := c.SetDeleteElements
		if comes {
			what = c.SetAddElements
		}
		elements := map[*nftables.Set][]nftables.SetElement{}
		for _, s := range steps {
			if s.comes == comes {
				in, val := l.place(s.of)
				elements[in] = append(elements[in], nftables.SetElement{Key: s.first.AsSlice(), Val: val}, nftables.SetElement{Key: s.end.AsSlice(), IntervalEnd: true})
			}
		}
		for in, some := range elements {
			if err := c.Each(in, some, what); err != nil {
				return err
			}
		}
	}
	return nil
}
