// Package tsnet joins a visitor and a service by two tsnet nodes.
//
// Tailscale's control server for tests wants a test to run in, so each role is one: the control server with its
// relay, the node at the service ("far"), and the node at the visitor ("near").
package tsnet

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"tailscale.com/ipn/store/mem"
	"tailscale.com/net/netns"
	"tailscale.com/tailcfg"
	"tailscale.com/tsnet"
	"tailscale.com/tstest/integration"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/logger"
)

// What a role is told: ADDRESS is the control server's, FORWARD lists "FROM=TO" pairs.
func setting(t *testing.T, name string) string {
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set", name)
	}
	return value
}

func pairs(t *testing.T) map[string]string {
	found := map[string]string{}
	for _, pair := range strings.Fields(setting(t, "FORWARD")) {
		from, to, _ := strings.Cut(pair, "=")
		found[from] = to
	}
	return found
}

func TestControl(t *testing.T) {
	address := setting(t, "ADDRESS")
	host, _, _ := net.SplitHostPort(address)
	control := &testcontrol.Server{
		DERPMap:         integration.RunDERPAndSTUN(t, logger.Discard, host),
		DNSConfig:       &tailcfg.DNSConfig{Proxied: true},
		MagicDNSDomain:  "bench.ts.net",
		Logf:            logger.Discard,
		ExplicitBaseURL: "http://" + address,
	}
	t.Fatal(http.ListenAndServe(address, control))
}

func node(t *testing.T, name string) *tsnet.Server {
	netns.SetEnabled(false)
	server := &tsnet.Server{
		Dir:        t.TempDir(),
		Hostname:   name,
		Store:      new(mem.Store),
		Ephemeral:  true,
		ControlURL: "http://" + setting(t, "ADDRESS"),
		UserLogf:   log.Printf,
	}
	within, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := server.Up(within); err != nil {
		t.Fatal(err)
	}
	return server
}

func TestFar(t *testing.T) {
	server := node(t, "far")
	for from, to := range pairs(t) {
		listener, err := server.Listen("tcp", ":"+from)
		if err != nil {
			t.Fatal(err)
		}
		go serve(listener, func() (net.Conn, error) { return net.Dial("tcp", to) })
	}
	select {}
}

func TestNear(t *testing.T) {
	server := node(t, "near")
	far := ""
	for far == "" {
		far = addressOf(t, server, "far")
		time.Sleep(100 * time.Millisecond)
	}
	for from, to := range pairs(t) {
		listener, err := net.Listen("tcp", from)
		if err != nil {
			t.Fatal(err)
		}
		go serve(listener, func() (net.Conn, error) {
			return server.Dial(context.Background(), "tcp", net.JoinHostPort(far, to))
		})
	}
	select {}
}

func addressOf(t *testing.T, server *tsnet.Server, name string) string {
	client, err := server.LocalClient()
	if err != nil {
		t.Fatal(err)
	}
	status, err := client.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, peer := range status.Peer {
		if peer.HostName == name && len(peer.TailscaleIPs) > 0 {
			return peer.TailscaleIPs[0].String()
		}
	}
	return ""
}

func serve(listener net.Listener, dial func() (net.Conn, error)) {
	for {
		visitor, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		go join(visitor, dial)
	}
}

// Each direction ends by itself.
func join(visitor net.Conn, dial func() (net.Conn, error)) {
	defer visitor.Close()
	target, err := dial()
	if err != nil {
		return
	}
	defer target.Close()
	done := make(chan struct{}, 2)
	copy := func(to, from net.Conn) {
		io.Copy(to, from)
		if end, ok := to.(interface{ CloseWrite() error }); ok {
			end.CloseWrite()
		}
		done <- struct{}{}
	}
	go copy(target, visitor)
	go copy(visitor, target)
	<-done
	<-done
}
