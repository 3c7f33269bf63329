//go:build linux

package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// The ports of the database servers.
const (
	MariaDBPort  = 3306
	PostgresPort = 5432
)

// MariaDBErrorLog and PostgresLog are text logs of these servers. No rule reads them.
const (
	MariaDBErrorLog = "/var/log/mysql/error.log"
	PostgresLog     = "/var/log/postgresql/postgresql.log"
)

// mariadbTables are the files that make MariaDB's own tables.
var mariadbTables = []string{"mysql_system_tables.sql", "mysql_system_tables_data.sql"}

// StartMariaDB starts a MariaDB server, which writes connections to syslog (plugin server_audit) and its error log to a file.
func (w *World) StartMariaDB(ctx context.Context) (*Process, error) {
	const data = "/var/lib/mysql"
	share := Unpacked + "/usr/share/mysql"
	sql := "create database mysql;\nuse mysql;\n"
	for _, name := range mariadbTables {
		text, err := os.ReadFile(filepath.Join(share, name))
		if err != nil {
			return nil, err
		}
		sql += string(text)
	}
	sql += fmt.Sprintf("flush privileges;\ncreate user %s@'%%' identified by '%s';\n", Alice.Name, strings.ReplaceAll(Alice.Password, "'", "''"))
	if err := errors.Join(os.RemoveAll(data), os.MkdirAll(data, 0o755), os.MkdirAll(filepath.Dir(MariaDBErrorLog), 0o755)); err != nil {
		return nil, err
	}
	common := []string{
		"--no-defaults", "--user=root", "--datadir=" + data, "--innodb=OFF", "--default-storage-engine=Aria",
		"--lc-messages-dir=" + share, "--character-sets-dir=" + share + "/charsets", "--plugin-dir=" + Unpacked + "/usr/lib/mysql/plugin",
	}
	program := Unpacked + "/usr/sbin/mariadbd"
	if _, err := w.Run(ctx, Command{Path: program, Args: append(common[:len(common):len(common)], "--bootstrap"), Stdin: sql}); err != nil {
		return nil, err
	}
	p, err := w.Start(Command{
		Path: program, Unit: "system.slice/mariadb.service",
		Args: append(common, "--skip-name-resolve", fmt.Sprintf("--port=%d", MariaDBPort), "--socket=/run/mysqld.sock", "--pid-file=/run/mysqld.pid",
			"--log-error="+MariaDBErrorLog, "--log-warnings=2",
			"--plugin-load-add=server_audit", "--server-audit-logging=ON", "--server-audit-output-type=syslog", "--server-audit-events=CONNECT"),
	})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(MariaDBPort) })
}

// MariaDB logs in with the method mysql_native_password, and disconnects.
func (c Client) MariaDB(ctx context.Context, user, password string) error {
	conn, err := c.Dial(ctx, MariaDBPort)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	greeting, err := mysqlPacket(r)
	if err != nil {
		return fmt.Errorf("mariadb greeting: %w", err)
	}
	_, rest, _ := bytes.Cut(greeting[1:], []byte{0}) // the version
	if len(rest) < 4+8+1+18+12 {
		return fmt.Errorf("mariadb greeting: %q is too short", greeting)
	}
	salt := append(bytes.Clone(rest[4:12]), rest[31:43]...)

	const method = "mysql_native_password"
	const capabilities = 0x1 | 0x200 | 0x8000 | 0x80000 // LONG_PASSWORD, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH
	login := binary.LittleEndian.AppendUint32(nil, capabilities)
	login = binary.LittleEndian.AppendUint32(login, 1<<24)
	login = append(login, 33) // utf8
	login = append(login, make([]byte, 23)...)
	login = append(login, user+"\x00"...)
	login = append(login, sha1.Size)
	login = append(login, mysqlScramble(password, salt)...)
	login = append(login, method+"\x00"...)
	header := binary.LittleEndian.AppendUint32(nil, uint32(len(login))|1<<24)
	if _, err := conn.Write(append(header, login...)); err != nil {
		return err
	}
	answer, err := mysqlPacket(r)
	switch {
	case err != nil:
		return fmt.Errorf("mariadb login as %q: %w", user, err)
	case answer[0] == 0xff:
		return fmt.Errorf("mariadb login as %q: %w: %q", user, ErrDenied, answer[3:])
	case answer[0] != 0:
		return fmt.Errorf("mariadb login as %q: %q", user, answer)
	}
	return nil
}

// mysqlPacket reads a packet: three bytes of length, one of a number, and at least one of content.
func mysqlPacket(r io.Reader) ([]byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint32(header[:]) & 0xffffff
	if length == 0 {
		return nil, errors.New("an empty packet")
	}
	packet := make([]byte, length)
	_, err := io.ReadFull(r, packet)
	return packet, err
}

// mysqlScramble answers a challenge: SHA1(password) XOR SHA1(salt + SHA1(SHA1(password))).
func mysqlScramble(password string, salt []byte) []byte {
	once := sha1.Sum([]byte(password))
	twice := sha1.Sum(once[:])
	mask := sha1.Sum(append(bytes.Clone(salt), twice[:]...))
	for i := range once {
		once[i] ^= mask[i]
	}
	return once[:]
}

const postgresConfig = `
listen_addresses = '*'
unix_socket_directories = ''
fsync = off
log_connections = on
log_line_prefix = '%%m %%h %%u@%%d '
logging_collector = on
log_directory = '%s'
log_filename = '%s'
log_destination = 'stderr,jsonlog'
`

// StartPostgres starts a PostgreSQL server with a log of JSON, and one of text whose prefix has the user's name.
func (w *World) StartPostgres(ctx context.Context) (*Process, error) {
	const data = "/var/lib/postgresql/data"
	bin := Unpacked + "/usr/lib/postgresql/15/bin/"
	postgres, err := systemAccount("postgres", 996, "/var/lib/postgresql") // the server refuses to run as root
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(data); err != nil {
		return nil, err
	}
	for _, d := range []string{filepath.Dir(data), filepath.Dir(PostgresLog)} {
		if err := errors.Join(os.MkdirAll(d, 0o755), os.Chown(d, postgres.UID, postgres.UID)); err != nil {
			return nil, err
		}
	}
	create := fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'\n", Alice.Name, strings.ReplaceAll(Alice.Password, "'", "''"))
	for _, c := range []Command{
		{Path: bin + "initdb", Args: []string{"-D", data, "-U", "postgres", "--no-sync", "--auth=reject", "--locale=C", "--encoding=UTF8"}, As: &postgres},
		{Path: bin + "postgres", Args: []string{"--single", "-D", data, "postgres"}, Stdin: create, As: &postgres},
	} {
		if _, err := w.Run(ctx, c); err != nil {
			return nil, err
		}
	}
	if err := writeFiles(map[string]string{data + "/pg_hba.conf": "host all all all password\n"}); err != nil {
		return nil, err
	}
	if err := appendFile(data+"/postgresql.conf", fmt.Sprintf(postgresConfig, filepath.Dir(PostgresLog), filepath.Base(PostgresLog))); err != nil {
		return nil, err
	}
	p, err := w.Start(Command{Path: bin + "postgres", Args: []string{"-D", data}, Unit: "system.slice/postgresql@15-main.service", As: &postgres})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(PostgresPort) })
}

// Postgres logs in by password, and disconnects.
func (c Client) Postgres(ctx context.Context, user, password string) error {
	conn, err := c.Dial(ctx, PostgresPort)
	if err != nil {
		return err
	}
	defer conn.Close()
	const version = 3 << 16
	start := binary.BigEndian.AppendUint32(nil, version)
	start = append(start, "user\x00"+user+"\x00database\x00postgres\x00\x00"...)
	if err := postgresSend(conn, "", start); err != nil {
		return err
	}
	if err := postgresSend(conn, "p", []byte(password+"\x00")); err != nil {
		return err
	}
	for r := bufio.NewReader(conn); ; {
		kind, text, err := postgresMessage(r)
		switch {
		case err != nil:
			return fmt.Errorf("postgresql login as %q: %w", user, err)
		case kind == 'E':
			return fmt.Errorf("postgresql login as %q: %w: %q", user, ErrDenied, text)
		case kind == 'Z': // ready for a query
			return nil
		}
	}
}

// postgresSend writes a message: a byte of its kind, which the first one lacks, its length, and its content.
func postgresSend(w io.Writer, kind string, content []byte) error {
	message := binary.BigEndian.AppendUint32([]byte(kind), uint32(4+len(content)))
	_, err := w.Write(append(message, content...))
	return err
}

func postgresMessage(r io.Reader) (kind byte, content []byte, err error) {
	var header [5]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length < 4 || length > 1<<20 {
		return 0, nil, fmt.Errorf("a message of %d bytes", length)
	}
	content = make([]byte, length-4)
	_, err = io.ReadFull(r, content)
	return header[0], content, err
}
