//go:build linux

package lab

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
)

// The ports of the web servers.
const (
	NginxPort  = 80
	ApachePort = 81
)

// Private is the path for which the web servers ask for a password.
const Private = "/private"

// webFiles returns the files of a web server: its configuration, and Alice's password as nginx and Apache read it.
func webFiles(path, config string) map[string]string {
	sum := sha1.Sum([]byte(Alice.Password))
	return map[string]string{path: config, "/etc/htpasswd": Alice.Name + ":{SHA}" + base64.StdEncoding.EncodeToString(sum[:]) + "\n"}
}

const nginxConfig = `daemon off;
pid /run/nginx.pid;
error_log %s;
events {}
http {
  access_log %s;
  client_body_temp_path /run/nginx/body;
  proxy_temp_path /run/nginx/proxy;
  fastcgi_temp_path /run/nginx/fastcgi;
  uwsgi_temp_path /run/nginx/uwsgi;
  scgi_temp_path /run/nginx/scgi;
  server {
    listen %[3]d;
    listen [::]:%[3]d;
    location %[4]s { auth_basic "private"; auth_basic_user_file /etc/htpasswd; empty_gif; }
  }
}
`

// NginxErrorLog is where nginx writes its error log, and nginxAccessLog the other.
const (
	NginxErrorLog  = "/var/log/nginx/error.log"
	nginxAccessLog = "/var/log/nginx/access.log"
)

// StartNginx starts nginx with its logs in the usual files.
func (w *World) StartNginx(ctx context.Context) (*Process, error) {
	if err := errors.Join(os.MkdirAll("/var/log/nginx", 0o755), os.MkdirAll("/run/nginx", 0o755), os.MkdirAll("/var/lib/nginx", 0o755)); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(nginxConfig, NginxErrorLog, nginxAccessLog, NginxPort, Private)
	if err := writeFiles(webFiles("/etc/nginx/nginx.conf", config)); err != nil {
		return nil, err
	}
	p, err := w.Start(Command{Path: Unpacked + "/usr/sbin/nginx", Args: []string{"-c", "/etc/nginx/nginx.conf"}, Unit: "system.slice/nginx.service"})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(NginxPort) })
}

const apacheConfig = `ServerName server
ServerRoot /run/apache2
PidFile /run/apache2/pid
Listen %d
LoadModule mpm_event_module %[2]s/mod_mpm_event.so
LoadModule authn_core_module %[2]s/mod_authn_core.so
LoadModule authn_file_module %[2]s/mod_authn_file.so
LoadModule authz_core_module %[2]s/mod_authz_core.so
LoadModule authz_user_module %[2]s/mod_authz_user.so
LoadModule auth_basic_module %[2]s/mod_auth_basic.so
LoadModule alias_module %[2]s/mod_alias.so
User www-data
Group www-data
ErrorLog /var/log/apache2/error.log
LogLevel warn
LogFormat "%%h %%l %%u %%t \"%%r\" %%>s %%O \"%%{Referer}i\" \"%%{User-Agent}i\"" combined
CustomLog %[4]s combined
Alias %[3]s /etc/hostname
<Location %[3]s>
  AuthType Basic
  AuthName private
  AuthUserFile /etc/htpasswd
  Require valid-user
</Location>
`

const apacheAccessLog = "/var/log/apache2/access.log"

// StartApache starts Apache httpd with its logs in the usual files.
func (w *World) StartApache(ctx context.Context) (*Process, error) {
	if err := errors.Join(os.MkdirAll("/var/log/apache2", 0o755), os.MkdirAll("/run/apache2", 0o755)); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(apacheConfig, ApachePort, Unpacked+"/usr/lib/apache2/modules", Private, apacheAccessLog)
	if err := writeFiles(webFiles("/etc/apache2/apache2.conf", config)); err != nil {
		return nil, err
	}
	p, err := w.Start(Command{
		Path: Unpacked + "/usr/sbin/apache2", Args: []string{"-D", "FOREGROUND", "-f", "/etc/apache2/apache2.conf"},
		Unit: "system.slice/apache2.service",
	})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(ApachePort) })
}

// HTTP requests a path, which is sent unchanged, with user name and password if user is not empty. It returns the status.
func (c Client) HTTP(ctx context.Context, port int, path, user, password string) (status int, err error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx, port) },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://server"+path, nil)
	if err != nil {
		return 0, err
	}
	if user != "" {
		request.SetBasicAuth(user, password)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// WebLogin logs in at a web server.
func (c Client) WebLogin(ctx context.Context, port int, user, password string) error {
	status, err := c.HTTP(ctx, port, Private, user, password)
	switch {
	case err != nil:
		return fmt.Errorf("web login as %s: %w", user, err)
	case status == http.StatusUnauthorized:
		return fmt.Errorf("web login as %s: %w", user, ErrDenied)
	case status != http.StatusOK:
		return fmt.Errorf("web login as %s: status %d", user, status)
	}
	return nil
}
