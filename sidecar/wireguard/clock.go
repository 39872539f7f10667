package wireguard

import "time"

// Section 6: what a peer has to do as time passes. All of it is decided here, from what has happened and when; peer.go records
// that and does what is decided.
const (
	keepaliveAfter = 10 * time.Second
	retryAfter     = 5 * time.Second
	giveUpAfter    = 90 * time.Second
	forgetAfter    = 3 * rejectAfter
	// firstRetry is sooner than WireGuard's five seconds, and doubles up to them, where nothing can be sent meanwhile: two pods
	// that start together find that one asks before the other has been told of it.
	firstRetry = 100 * time.Millisecond
)

// instant is a time in nanoseconds since the engine began, by the monotonic clock. Zero means never.
type instant int64

func (i instant) sub(j instant) time.Duration   { return time.Duration(i - j) }
func (i instant) add(d time.Duration) instant   { return i + instant(d) }
func (i instant) after(d time.Duration) instant { return i.unlessNever(i.add(d)) }
func (i instant) unlessNever(j instant) instant { // never stays never
	if i == 0 {
		return 0
	}
	return j
}

// history is what has happened between us and a peer, each the last time or never.
type history struct {
	asked     instant // an initiation was sent that has not been answered yet
	since     instant // the first of the initiations that asked belongs to
	attempts  int     // how many there were
	held      instant // a handshake is wanted, but must not begin before
	connected bool    // there is a session to send with

	unanswered instant // data was sent, the first since anything was received
	owed       instant // data was received, the first since anything was sent
	traffic    instant // anything authenticated was sent or received
	derived    instant // a session was made
	path       instant // not past, but when something is to be done about its MTU

	keepalive time.Duration // persistent keepalive; zero: off
	jitter    time.Duration // up to a third of a second, so that two ends do not retry in step
}

// duty is what to do, several at once.
type duty uint8

const (
	ask      duty = 1 << iota // send another initiation
	begin                     // begin a handshake
	giveUp                    // stop asking, and drop what waits for a session
	reassure                  // send a keepalive
	forget                    // drop every key
	probe                     // look into the path
)

// retry is how long to wait for an answer to the last initiation.
func (h history) retry() time.Duration {
	wait := retryAfter
	if !h.connected && h.attempts < 7 {
		wait = min(wait, firstRetry<<max(0, h.attempts-1))
	}
	return wait + min(h.jitter, wait/3)
}

// decide says what is to be done now, and when to ask again; never, if nothing is under way.
func (h history) decide(now instant) (do duty, next instant) {
	consider := func(due instant, d duty) {
		switch {
		case due == 0:
		case now >= due:
			do |= d
		case next == 0 || due < next:
			next = due
		}
	}
	if h.asked != 0 && now.sub(h.since) >= giveUpAfter {
		do |= giveUp
	} else {
		consider(h.asked.after(h.retry()), ask)
	}
	consider(h.held, begin)
	consider(h.unanswered.after(keepaliveAfter+retryAfter+h.jitter), begin)
	consider(h.owed.after(keepaliveAfter), reassure)
	if h.keepalive > 0 {
		consider(h.traffic.after(h.keepalive), reassure)
	}
	consider(h.derived.after(forgetAfter), forget)
	consider(h.path, probe)
	if h.asked != 0 {
		do &^= begin // one is under way, or has just been given up
	}
	return do, next
}
