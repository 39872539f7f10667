package wireguard

import (
	"testing"
	"time"
)

func at(d time.Duration) instant { return instant(d) + 1 }

func TestDecide(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	for name, tc := range map[string]struct {
		h    history
		now  time.Duration
		do   duty
		next time.Duration // zero: never
	}{
		"nothing":                     {history{}, 5 * s, 0, 0},
		"first retry":                 {history{asked: at(0), since: at(0), attempts: 1}, 99 * ms, 0, 100 * ms},
		"first retry due":             {history{asked: at(0), since: at(0), attempts: 1}, 100 * ms, ask, 0},
		"retries double":              {history{asked: at(0), since: at(0), attempts: 3}, 399 * ms, 0, 400 * ms},
		"up to five seconds":          {history{asked: at(0), since: at(0), attempts: 30}, s, 0, 5 * s},
		"not so soon with a session":  {history{asked: at(0), since: at(0), attempts: 1, connected: true}, s, 0, 5 * s},
		"jitter":                      {history{asked: at(0), since: at(0), attempts: 9, jitter: 300 * ms}, s, 0, 5*s + 300*ms},
		"give up":                     {history{asked: at(89 * s), since: at(0), attempts: 20}, 90 * s, giveUp, 0},
		"data unanswered":             {history{unanswered: at(0)}, 14 * s, 0, 15 * s},
		"data unanswered for long":    {history{unanswered: at(0)}, 15 * s, begin, 0},
		"while asking":                {history{unanswered: at(0), asked: at(14 * s), since: at(14 * s), attempts: 9}, 15 * s, 0, 19 * s},
		"a keepalive is owed":         {history{owed: at(0)}, 9 * s, 0, 10 * s},
		"a keepalive is due":          {history{owed: at(0)}, 10 * s, reassure, 0},
		"persistent keepalive":        {history{traffic: at(0), keepalive: 25 * s}, 24 * s, 0, 25 * s},
		"persistent keepalive is due": {history{traffic: at(0), keepalive: 25 * s}, 25 * s, reassure, 0},
		"keys are kept":               {history{derived: at(0)}, 539 * s, 0, 540 * s},
		"keys are forgotten":          {history{derived: at(0)}, 540 * s, forget, 0},
		"held back":                   {history{held: at(5 * s)}, 4 * s, 0, 5 * s},
		"the earliest":                {history{derived: at(0), owed: at(s), unanswered: at(0)}, 2 * s, 0, 11 * s},
	} {
		do, next := tc.h.decide(at(tc.now))
		want := instant(0)
		if tc.next != 0 {
			want = at(tc.next)
		}
		if do != tc.do || next != want {
			t.Errorf("%s: do %b, next %d; want %b, %d", name, do, next, tc.do, want)
		}
	}
}
