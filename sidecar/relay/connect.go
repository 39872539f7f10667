package relay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

const maxConnectHeader = 8 << 10

// connectError is a request that is refused before anything is dialled.
type connectError struct {
	status int
	text   string
}

func (e *connectError) Error() string { return e.text }

// connectStatus is the response for a reason.
func connectStatus(why Reason) int {
	switch why {
	case None:
		return http.StatusOK
	case NotAllowed, UnknownName:
		return http.StatusForbidden
	case NoTargets, Limit, Draining:
		return http.StatusServiceUnavailable
	case Timeout:
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

// readConnect reads one CONNECT request, and returns with the destination what the client sent after it.
func readConnect(r io.Reader) (d destination, early []byte, err error) {
	heard := &lastError{r: r}
	lr := &io.LimitedReader{R: heard, N: maxConnectHeader}
	br := bufio.NewReaderSize(lr, 4<<10)
	req, err := http.ReadRequest(br)
	if err != nil {
		switch {
		case lr.N <= 0:
			return d, nil, &connectError{http.StatusRequestHeaderFieldsTooLarge, "request header is too large"}
		case heard.err != nil: // a header cut short looks malformed; say what cut it
			return d, nil, fmt.Errorf("read request: %w", heard.err)
		}
		return d, nil, &connectError{http.StatusBadRequest, "request is malformed"}
	}
	switch {
	case req.Method != http.MethodConnect:
		return d, nil, &connectError{http.StatusMethodNotAllowed, "method is not CONNECT"}
	case !req.ProtoAtLeast(1, 0) || req.ProtoMajor != 1:
		return d, nil, &connectError{http.StatusHTTPVersionNotSupported, "not HTTP/1"}
	case req.ContentLength > 0 || len(req.TransferEncoding) > 0:
		return d, nil, &connectError{http.StatusBadRequest, "CONNECT has a body"}
	}
	d, err = parseAuthority(req.RequestURI)
	if err != nil {
		return d, nil, &connectError{http.StatusBadRequest, err.Error()}
	}
	early, _ = br.Peek(br.Buffered())
	return d, bytes.Clone(early), nil
}

// lastError remembers why a reader ended.
type lastError struct {
	r   io.Reader
	err error
}

func (l *lastError) Read(b []byte) (int, error) {
	n, err := l.r.Read(b)
	l.err = err
	return n, err
}

// parseAuthority reads "host:port", the only form CONNECT has.
func parseAuthority(s string) (destination, error) {
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		return destination{}, errDestination
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || portText[0] == '+' {
		return destination{}, fmt.Errorf("port: %w", errDestination)
	}
	return parseHost(host, uint16(port))
}

// serveConnect answers one client of the HTTP proxy.
func (r *Relay) serveConnect(ctx context.Context, c localStream, m *meter) {
	end := r.handshake(ctx, c)
	d, early, err := readConnect(c)
	if !end() {
		m.fail(Aborted)
		return
	}
	if err != nil {
		var ce *connectError
		var ne net.Error
		switch {
		case errors.As(err, &ce):
			writeConnectError(c, ce.status, ce.text)
		case errors.As(err, &ne) && ne.Timeout():
			writeConnectError(c, http.StatusRequestTimeout, "request did not come in time")
		}
		r.failed(m, Malformed, "error", err)
		closeAfterReply(c)
		return
	}
	s, target, why := r.connectTo(ctx, d)
	if why != None {
		writeConnectError(c, connectStatus(why), "reason: "+why.String())
		r.failed(m, why, "to", d.String())
		closeAfterReply(c)
		return
	}
	defer r.balancer.end(target)
	if _, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		c.Abort()
		s.Abort()
		m.fail(ResetByLocal)
		return
	}
	r.carry(ctx, c, s, early, m)
}

func writeConnectError(w io.Writer, status int, text string) {
	allow := ""
	if status == http.StatusMethodNotAllowed {
		allow = "Allow: CONNECT\r\n"
	}
	_, _ = fmt.Fprintf(w, "HTTP/1.1 %d %s\r\n%sContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n",
		status, http.StatusText(status), allow, len(text)+1, text)
}

// closeAfterReply closes so that the client gets the reply: closing over unread bytes would send a reset, which can overtake
// it. So FIN first, then read what still comes, a little and not for long.
func closeAfterReply(c localStream) {
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.CopyN(io.Discard, c, 64<<10)
	_ = c.Close()
}
