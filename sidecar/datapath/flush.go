package datapath

import (
	"context"
	"fmt"
	"time"
)

// flushLook is how often WaitHeard looks: no TCP tells anybody of the end of a connection that its owner has closed.
const flushLook = 10 * time.Millisecond

// WaitHeard is how a datapath flushes: it waits until there are no connections any more whose closed direction the peer has not acknowledged,
// of which unheard says how many there are. The error is unheard's or wraps that of ctx.
func WaitHeard(ctx context.Context, unheard func() (int, error)) error {
	for {
		n, err := unheard()
		switch {
		case err != nil:
			return fmt.Errorf("flush: %w", err)
		case n == 0:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("flush: %d connections have more to send: %w", n, ctx.Err())
		case <-time.After(flushLook):
		}
	}
}
