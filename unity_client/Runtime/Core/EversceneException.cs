using System;

namespace Everscene
{
    /// <summary>
    /// What can go wrong, and nothing else is thrown by this assembly but argument and state errors:
    /// <code>
    /// EversceneException
    /// ├── ConnectionException   the socket, the handshake, the token
    /// ├── MessageException      bytes that break docs/protocol.md
    /// └── RingException         a ring file that cannot be used
    /// </code>
    /// </summary>
    public abstract class EversceneException : Exception
    {
        protected EversceneException(string message, Exception cause) : base(message, cause) { }
    }

    /// <summary>The connection could not be made or broke. <see cref="Fatal"/>: trying again changes nothing.</summary>
    public sealed class ConnectionException : EversceneException
    {
        public bool Fatal { get; }

        public ConnectionException(string message, bool fatal = false, Exception cause = null) : base(message, cause)
        {
            Fatal = fatal;
        }
    }

    /// <summary>Bytes from the server that break the protocol; the message says which rule.</summary>
    public sealed class MessageException : EversceneException
    {
        public MessageException(string message, Exception cause = null) : base(message, cause) { }
    }

    /// <summary>The ring file is missing, foreign, of another version or too short.</summary>
    public sealed class RingException : EversceneException
    {
        public RingException(string message, Exception cause = null) : base(message, cause) { }
    }
}
