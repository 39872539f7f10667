package wireguard

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestFailedReadsAreToldNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := receiver{engine: &Engine{log: slog.New(slog.NewTextHandler(&log, nil))}}
		for range 3 * time.Minute / readAgain {
			r.failed(errors.New("no buffer space"))
			time.Sleep(readAgain)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 3 {
			t.Errorf("warned %d times in three minutes of failures, want 3:\n%s", n, log.String())
		}
		if !strings.Contains(log.String(), "no buffer space") {
			t.Errorf("the reason is missing:\n%s", log.String())
		}
	})
}
