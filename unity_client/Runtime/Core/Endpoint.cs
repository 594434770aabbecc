using System;

namespace Everscene
{
    /// <summary>Where a socket is: <c>tcp://127.0.0.1:7464</c>, <c>tcp://[::1]:7464</c>, or the same without <c>tcp://</c>.</summary>
    public struct Endpoint
    {
        public const int DefaultControlPort = 7464;

        public string Host { get; }
        public int Port { get; }

        public Endpoint(string host, int port)
        {
            Host = host;
            Port = port;
        }

        /// <summary>Reads an endpoint; without a port it is 7464.</summary>
        /// <exception cref="ArgumentException">The text is none; the message shows it and the rule.</exception>
        public static Endpoint Parse(string text)
        {
            string rest = (text ?? "").Trim();
            if (rest.StartsWith("tcp://", StringComparison.OrdinalIgnoreCase)) rest = rest.Substring(6);
            int colon = rest.LastIndexOf(':');
            bool hasPort = colon >= 0 && rest.IndexOf(']') < colon;
            string host = (hasPort ? rest.Substring(0, colon) : rest).Trim('[', ']');
            int port = DefaultControlPort;
            bool portOk = !hasPort || int.TryParse(rest.Substring(colon + 1), out port) && port > 0 && port < 65536;
            if (host.Length == 0 || host.IndexOf('/') >= 0 || !portOk)
                throw new ArgumentException("an endpoint looks like tcp://127.0.0.1:7464, not like '" + text + "'");
            return new Endpoint(host, port);
        }

        /// <summary>The same, with <paramref name="host"/> in place of the wildcard <c>*</c> that a server may name.</summary>
        public Endpoint WithHost(string host) => Host == "*" || Host == "0.0.0.0" || Host == "::" ? new Endpoint(host, Port) : this;

        public override string ToString() =>
            Host.IndexOf(':') >= 0 ? "tcp://[" + Host + "]:" + Port : "tcp://" + Host + ":" + Port;
    }
}
