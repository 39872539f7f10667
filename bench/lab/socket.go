package lab

import (
	"context"
	"net"
	"net/http"
)

// SocketClient speaks HTTP over a unix socket, with a connection for each request.
func SocketClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
}
