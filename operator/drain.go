package operator

import (
	"context"
	"time"
)

// serveOn returns a context that ends o.ShutdownDelay after ctx. A replica that is told to end is still asked: by whoever has not yet
// heard that it is no endpoint any more, and over connections from before. It serves them, and stays ready, so that the last replica is
// used until there is another. As leader it leads on and hands over when the controllers have stopped.
func serveOn(ctx context.Context, o Options) (context.Context, context.CancelFunc) {
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		o.Log.Info("told to end: serving on until others are asked", "for", o.ShutdownDelay.String())
		select {
		case <-time.After(o.ShutdownDelay):
			end()
		case <-serving.Done():
		}
	})
	return serving, end
}
