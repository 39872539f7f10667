package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/injector"
)

// farewell is how long a sidecar may take to say its last word once it knows that nobody wants more.
const farewell = 2 * time.Second

// answerStream is an answer that is read while it comes. When the context that asked for it ends, the sidecar is told that nobody wants
// more, and has a moment for its last word.
type answerStream struct {
	*http.Response
	close func()
}

// post asks the pod's sidecar to do something that lasts. Other answers than 200 are errors, with what the sidecar says.
func (p *pod) post(ctx context.Context, path string, in any) (*answerStream, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Close = true
	a, err := p.ask(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("ask the sidecar of pod %s: %w", p.name, err)
	}
	if a.StatusCode == http.StatusOK {
		return a, nil
	}
	defer a.close()
	said, _ := io.ReadAll(io.LimitReader(a.Body, 1024))
	switch text := oneLine(string(said)); a.StatusCode {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return nil, fmt.Errorf("the sidecar of pod %s is of a version that does not know this; restart the pod to have the present one", p.name)
	default:
		return nil, fmt.Errorf("the sidecar of pod %s: %s", p.name, text)
	}
}

// ask sends a request to the sidecar, and returns once its answer begins.
func (p *pod) ask(ctx context.Context, r *http.Request) (*answerStream, error) {
	p.mu.Lock()
	p.next++
	h := http.Header{}
	h.Set(corev1.PortHeader, strconv.Itoa(injector.HealthPort))
	h.Set(corev1.PortForwardRequestIDHeader, strconv.Itoa(p.next))
	p.mu.Unlock()
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	failure, err := p.conn.CreateStream(h)
	if err != nil {
		return nil, err
	}
	_ = failure.Close() // nothing is sent that way
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := p.conn.CreateStream(h)
	if err != nil {
		p.conn.RemoveStreams(failure)
		return nil, err
	}
	reset := func() { _, _ = data.Reset(), failure.Reset() }
	stop := context.AfterFunc(ctx, func() {
		_ = data.Close() // one way: what the sidecar says still comes
		time.AfterFunc(farewell, reset)
	})
	closes := func() {
		stop()
		reset()
		p.conn.RemoveStreams(data, failure)
	}
	late := time.AfterFunc(askPatience, reset)
	defer late.Stop()
	err = r.Write(data)
	if err == nil {
		var res *http.Response
		if res, err = http.ReadResponse(bufio.NewReader(data), r); err == nil { //nolint:bodyclose // the stream that is returned closes it
			return &answerStream{res, closes}, nil
		}
	}
	defer closes()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	_ = data.Reset() // or what is left unread would hold up the other stream
	said, _ := io.ReadAll(io.LimitReader(failure, 4<<10))
	if len(said) == 0 && errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errors.New("it says nothing")
	}
	return nil, notAnswered(string(said), err)
}
