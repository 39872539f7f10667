package operator

import (
	"context"
	"time"

	"github.com/go-logr/logr"
)

// flushTraces sends the last traces, for a moment: nobody waits for a collector that is away.
func flushTraces(ctx context.Context, log logr.Logger, flush func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := flush(ctx); err != nil {
		log.Info("the last traces are lost", "error", err.Error())
	}
}
