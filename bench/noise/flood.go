package noise

import (
	"context"
	"fmt"
	"net"
	"time"
)

// Answers is what came of many handshakes.
type Answers struct {
	Took      time.Duration
	Responses int
	Cookies   int // overload: the device asked for proof instead of answering
	Lost      int
}

// PerSecond is the rate of answers.
func (a Answers) PerSecond() float64 { return float64(a.Responses) / a.Took.Seconds() }

// Window is how many handshakes are under way at a time: few enough that no device thinks itself attacked.
const Window = 16

// Flood sends each peer's initiation in turn, over and over, rounds times, keeping Window of them under way. Rounds of one peer
// lie a whole round of all others apart; devices take one from a peer every 20 ms at most.
func Flood(ctx context.Context, c net.Conn, peers []*Initiator, rounds int) (Answers, error) {
	messages, err := prepare(peers, rounds)
	if err != nil {
		return Answers{}, err
	}
	var a Answers
	begin := time.Now()
	waiting := map[uint32]time.Time{}
	buf := make([]byte, 2048)
	const patience = time.Second
	for next := 0; (next < len(messages) || len(waiting) > 0) && ctx.Err() == nil; {
		for len(waiting) < Window && next < len(messages) {
			if _, err := c.Write(messages[next]); err != nil {
				return a, fmt.Errorf("send: %w", err)
			}
			waiting[uint32(next)] = time.Now()
			next++
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		n, err := c.Read(buf)
		if err != nil { // silence: what is under way is lost
			a.Lost += len(waiting)
			begin = begin.Add(patience)
			clear(waiting)
			continue
		}
		kind, index := Parse(buf[:n])
		if _, ours := waiting[index]; !ours {
			continue
		}
		delete(waiting, index)
		if kind == Response {
			a.Responses++
		} else if kind == Cookie {
			a.Cookies++
		}
	}
	a.Took = time.Since(begin)
	return a, ctx.Err()
}

func prepare(peers []*Initiator, rounds int) ([][]byte, error) {
	var messages [][]byte
	first := time.Now()
	for round := range rounds {
		for _, p := range peers {
			at := first.Add(time.Duration(round) * time.Second) // a whole second: no rounding makes two the same
			m, err := p.Initiation(uint32(len(messages)), at)
			if err != nil {
				return nil, err
			}
			messages = append(messages, m)
		}
	}
	return messages, nil
}
