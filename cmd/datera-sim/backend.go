package main

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/datera-csi/datera-csi/internal/durable"
	"github.com/datera-csi/datera-csi/internal/sim"
)

// announce prepares TLS, writes the backend directory and says where all is.
func (p *process) announce(cfg sim.Config) error {
	files := map[string]string{"tenant": "/root", "username": cfg.Users[0].Name, "password": cfg.Users[0].Password}
	endpoint := p.endpoint
	if p.secure != nil {
		ca, err := p.secureListener()
		if err != nil {
			return err
		}
		files["ca.crt"] = string(ca.pem)
		endpoint = either(endpoint, "https://"+reachable(p.secure))
	}
	if p.plain != nil {
		endpoint = either(endpoint, "http://"+reachable(p.plain))
	}
	files["endpoint"] = endpoint
	dir, err := p.writeBackend(files)
	if err != nil {
		return err
	}
	p.say(dir, cfg, files)
	return p.reportOrphans()
}

func either(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

// secureListener puts TLS before the HTTPS listener.
func (p *process) secureListener() (*authority, error) {
	dir := ""
	if p.dataDir != "" {
		dir = filepath.Join(p.dataDir, "tls")
	}
	now := time.Now()
	ca, err := openAuthority(dir, now)
	if err != nil {
		return nil, err
	}
	host := ""
	if u, invalid := url.Parse(p.endpoint); invalid == nil {
		host = u.Hostname()
	}
	listen, _, err := net.SplitHostPort(p.https)
	if err != nil {
		return nil, fmt.Errorf("--https: %w", err)
	}
	leaf, err := ca.leaf(serverNames(host, listen), now)
	if err != nil {
		return nil, err
	}
	p.secure = tls.NewListener(p.secure, &tls.Config{
		Certificates: []tls.Certificate{leaf}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	return ca, nil
}

// reachable is a listener's address as a client on this host would name it.
func reachable(l net.Listener) string {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return l.Addr().String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// writeBackend writes the backend "default". The certificate comes last, so
// that its presence says that the directory is complete.
func (p *process) writeBackend(files map[string]string) (string, error) {
	parent := p.backendsDir
	switch {
	case parent != "":
	case p.dataDir != "":
		parent = filepath.Join(p.dataDir, "backends")
	default:
		dir, err := os.MkdirTemp("", "datera-sim-")
		if err != nil {
			return "", fmt.Errorf("write the backend directory, choose one with --backends-dir: %w", err)
		}
		p.atClose(func() error { return os.RemoveAll(dir) })
		parent = dir
	}
	dir := filepath.Join(parent, "default")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("write the backend directory, choose another one with --backends-dir: %w", err)
	}
	if files["ca.crt"] == "" {
		if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("write the backend directory: %w", err)
		}
	}
	for _, name := range backendFiles() {
		if files[name] == "" {
			continue
		}
		if err := durable.Replace(filepath.Join(dir, name), []byte(files[name])); err != nil {
			return "", fmt.Errorf("write the backend directory, choose another one with --backends-dir: %w", err)
		}
	}
	return parent, nil
}

func backendFiles() []string { return []string{"endpoint", "tenant", "username", "password", "ca.crt"} }

func (p *process) say(backends string, cfg sim.Config, files map[string]string) {
	line := func(what, value string) { fmt.Fprintf(p.out, "%-9s %s\n", what, value) }
	line("array", fmt.Sprintf("%s, software %s", cfg.Name, cfg.SWVersion))
	if p.secure != nil {
		line("https", "https://"+reachable(p.secure))
		line("CA", filepath.Join(backends, "default", "ca.crt"))
	}
	if p.plain != nil {
		line("http", "http://"+reachable(p.plain))
	}
	line("user", cfg.Users[0].Name)
	line("password", filepath.Join(backends, "default", "password"))
	line("state", either(p.dataDir, "in memory"))
	if p.lio {
		line("targets", "Linux kernel, portals "+strings.Join(p.portalTexts(cfg), " "))
	}
	line("backends", backends+"   (datera-csi controller --backends-dir="+backends+")")
	if p.printBackend {
		fmt.Fprint(p.out, secret(files))
	}
}

func (p *process) portalTexts(cfg sim.Config) []string {
	texts := make([]string, len(cfg.AccessIPs))
	for i, ip := range cfg.AccessIPs {
		texts[i] = ip.String()
	}
	return texts
}

// secret words a backend as a Kubernetes Secret.
func secret(files map[string]string) string {
	var b strings.Builder
	b.WriteString("---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: datera-backend-default\ntype: Opaque\ndata:\n")
	for _, name := range backendFiles() {
		if files[name] != "" {
			fmt.Fprintf(&b, "  %s: %s\n", name, base64.StdEncoding.EncodeToString([]byte(files[name])))
		}
	}
	return b.String()
}

func (p *process) reportOrphans() error {
	orphans, err := p.array.Orphans()
	if err != nil {
		return err
	}
	for _, file := range orphans {
		fmt.Fprintf(p.errOut, "datera-sim: %s belongs to no volume; a crash left it, remove it when you are sure\n", file)
	}
	return nil
}
