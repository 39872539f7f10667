package operator

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
)

func TestServeOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, terminate := context.WithCancel(t.Context())
		serving, end := serveOn(ctx, Options{ShutdownDelay: 10 * time.Second, Log: logr.Discard()})
		defer end()
		time.Sleep(time.Hour)
		if serving.Err() != nil {
			t.Fatal("ended without being told to")
		}
		terminate()
		told := time.Now()
		<-serving.Done()
		if took := time.Since(told); took != 10*time.Second {
			t.Errorf("served on for %s", took)
		}
	})
}

// TestServeOnEndsByItself: whoever fails does not wait, and leaves nothing behind, which synctest would find.
func TestServeOnEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, terminate := context.WithCancel(t.Context())
		_, end := serveOn(ctx, Options{ShutdownDelay: time.Hour, Log: logr.Discard()})
		start := time.Now()
		terminate()
		synctest.Wait()
		end()
		synctest.Wait()
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %s", took)
		}
	})
}
